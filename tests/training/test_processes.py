"""How rows are shared among processes and put together again, and what cannot be sharded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmrec.training import processes
from llmrec.training.processes import check_sharding, gather_rows, share_rows


def pretend(monkeypatch: pytest.MonkeyPatch, process_index: int, num_processes: int) -> None:
    """Share as one of many processes; what is gathered is the process' own part, with 0 elsewhere."""
    state = SimpleNamespace(process_index=process_index, num_processes=num_processes, device=torch.device("cpu"))
    monkeypatch.setattr(processes, "PartialState", lambda: state)
    monkeypatch.setattr(processes, "reduce", lambda tensor, reduction: tensor)  # noqa: ARG005


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
def test_shares_are_the_batches_of_one_process(monkeypatch: pytest.MonkeyPatch, num_processes: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 6, size=23)
    whole = share_rows(lengths, 4)
    assert list(lengths[whole]) == sorted(lengths, reverse=True)
    batches = {tuple(whole[start : start + 4]) for start in range(0, 23, 4)}
    shared = []
    for index in range(num_processes):
        pretend(monkeypatch, index, num_processes)
        rows = share_rows(lengths, 4)
        shared += [tuple(rows[start : start + 4]) for start in range(0, len(rows), 4)]
    assert len(shared) == len(batches)
    assert set(shared) == batches


def test_rows_come_back_in_order() -> None:
    rows = np.array([2, 0, 1])
    assert gather_rows(rows, rows[:, None] * 10 + np.arange(2), 3).tolist() == [[0, 1], [10, 11], [20, 21]]


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sharding(quantized=True, adapter=True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    check_sharding(quantized=False, adapter=True)
    with pytest.raises(ValueError, match=r"4 or 8 bits.*zero2\.yaml"):
        check_sharding(quantized=True, adapter=True)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    check_sharding(quantized=True, adapter=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"zero3\.yaml"):
        check_sharding(quantized=False, adapter=True)


@pytest.mark.parametrize("launch", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_matrices_in_pieces_are_not_for_muon(monkeypatch: pytest.MonkeyPatch, launch: str) -> None:
    check_sharding(quantized=False, adapter=False, muon=True)
    monkeypatch.setenv(launch, "true")
    check_sharding(quantized=False, adapter=False)
    with pytest.raises(ValueError, match="--muon false"):
        check_sharding(quantized=False, adapter=False, muon=True)
