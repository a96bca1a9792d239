"""What stops a training run: it is recognised, nothing from it is saved, and the message says what to do."""

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback

from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.arguments import RecommendationSFTConfig
from llmrec.training.checkpoints import checkpoint_inputs, complete_checkpoints
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import HistoryWindows
from llmrec.training.faults import TrainingError, explain_failures, is_disk_full
from llmrec.training.ranking_trainer import build_trainer
from tests.tiny import make_catalog, make_model
from tests.training.test_checkpoints import make_checkpoint

WRITERS: dict[str, Callable[[Path], object]] = {
    "plain": lambda folder: (folder / "file").write_bytes(bytes(200_000)),
    "torch": lambda folder: torch.save({"one": torch.zeros(50_000)}, folder / "file"),
    "torch, many tensors": lambda folder: torch.save({n: torch.zeros(500) for n in range(100)}, folder / "file"),
    "safetensors": lambda folder: save_file({"one": torch.zeros(50_000)}, folder / "file"),
    "parquet": lambda folder: pq.write_table(
        pa.table({"column": np.random.default_rng(0).random(50_000)}), folder / "f"
    ),
    "numpy": lambda folder: np.save(folder / "file.npy", np.zeros(50_000)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_cannot_grow_is_recognised_whoever_writes_it(tmp_path: Path, writer: str) -> None:
    # the portable stand-in for a full disk: a process's limit on the size of a file (File too large)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            WRITERS[writer](tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert is_disk_full(caught.value), caught.value


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "No such file"), RuntimeError("size mismatch"), ValueError("no"), KeyError("a")]
)
def test_other_errors_pass_untouched(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explain_failures(tmp_path):
        raise error
    assert caught.value is error
    assert not is_disk_full(error)


def test_the_fullest_disk_is_named_with_what_is_free_what_is_needed_and_where_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = tmp_path / "run", tmp_path / "data" / "not made yet"
    checkpoint = make_checkpoint(run, 5)
    usage = shutil.disk_usage(run)

    def disk_usage(path: Path) -> object:
        return usage._replace(free=5_000_000 if path == run else 3_000_000_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(TrainingError) as caught, explain_failures(run, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for part in (f"the disk of {run} is full", "5.0 MB free", "One checkpoint takes", str(checkpoint), "same command"):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


class _At(TrainerCallback):
    """Does something to the model after one optimizer step, or after a save."""

    def __init__(self, step: int, after_step: Callable[..., object] | None = None, after_save=None) -> None:
        self.step, self.after_step, self.after_save = step, after_step, after_save

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        if state.global_step + 1 == self.step and self.after_step is not None:
            self.after_step(model)

    def on_save(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        if state.global_step == self.step and self.after_save is not None:
            self.after_save()


def _trainer(folder: Path, *callbacks: TrainerCallback, **options) -> Trainer:
    catalog = make_catalog()
    model, tokenizer, vocabulary = make_model(catalog)
    rng = np.random.default_rng(0)
    sequences = [[str(item) for item in rng.permutation(30)[:6]] for _ in range(40)]
    source = HistoryWindows(sequences, SegmentRenderer(catalog, vocabulary), 6, seed=0)
    examples = EpochExamples([source], tokenizer.eos_token_id, False, 64)
    config = RecommendationSFTConfig(
        output_dir=str(folder), disable_tqdm=True, **{"save_strategy": "steps", "save_steps": 2, **options}
    )
    trainer = build_trainer(model, tokenizer, config, examples, None, None, None, inputs={"split": "a"})
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def _poison(value: float) -> Callable[[torch.nn.Module], object]:
    def poison(model: torch.nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters())[0, 0] = value

    return poison


@pytest.mark.parametrize(("step", "message"), [(4, "The weights after step 4 are"), (3, "training loss of step 4 is")])
def test_what_is_not_finite_is_never_saved(tmp_path: Path, step: int, message: str) -> None:
    # every row of the embedding is also one of the head, so an infinite one is in each loss
    trainer = _trainer(tmp_path, _At(step, _poison(float("inf"))), max_steps=10)
    with pytest.raises(TrainingError, match=message) as caught:
        trainer.train()
    assert f"The last complete checkpoint is {tmp_path / 'checkpoint-2'}" in str(caught.value)
    assert "lower --learning_rate or --max_grad_norm" in str(caught.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_without_a_checkpoint_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss of step 2 is.*--output_dir.*--fp16 True\.$"):
        _trainer(tmp_path, _At(1, _poison(float("nan"))), max_steps=10).train()


def test_a_run_that_was_over_in_the_middle_of_a_pass_takes_no_further_step(tmp_path: Path) -> None:
    first = _trainer(tmp_path, max_steps=2, per_device_train_batch_size=4)
    first.train()
    again = _trainer(tmp_path, max_steps=2, per_device_train_batch_size=4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 2
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_another_number_of_processes_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _trainer(tmp_path, max_steps=2).train()
    checkpoint = tmp_path / "checkpoint-2"
    _trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=str(checkpoint))
    assert "processes" not in caplog.text
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    _trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=str(checkpoint))
    assert "was written by 2 processes and is resumed on 1" in caplog.text


def test_resumed_from_an_earlier_checkpoint_the_later_ones_go_once_a_new_one_is_complete(tmp_path: Path) -> None:
    _trainer(tmp_path, max_steps=8, save_total_limit=None).train()
    seen: list[list[str]] = []
    look = _At(4, after_save=lambda: seen.append([path.name for path in complete_checkpoints(tmp_path)]))
    again = _trainer(tmp_path, look, max_steps=8, save_total_limit=None)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert seen == [["checkpoint-2", "checkpoint-4"]]
    assert checkpoint_inputs(tmp_path / "checkpoint-8") == {"split": "a"}
