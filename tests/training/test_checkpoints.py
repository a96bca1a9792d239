"""Which checkpoints count, which go, and how much room they are said to need."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import TrainingArguments

from llmrec.training.checkpoints import (
    COMPLETE_FILE,
    check_free_space,
    checkpoint_inputs,
    checkpoint_size,
    complete_checkpoints,
    estimated_checkpoint_size,
    is_complete,
    mark_complete,
    remove_incomplete,
    remove_older,
)
from llmrec.training.muon import MuonWithRest, layer_matrices
from tests.tiny import make_catalog, make_model


def make_checkpoint(folder: Path, step: int, complete: bool = True, inputs: Mapping[str, str] | None = None) -> Path:
    """A checkpoint of three files, one of them deeper, as DeepSpeed writes them."""
    path = folder / f"checkpoint-{step}"
    (path / f"global_step{step}").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / f"global_step{step}" / "optim_states.pt").write_bytes(b"moments")
    (path / "trainer_state.json").write_text("{}")
    if complete:
        mark_complete(path, inputs or {})
    return path


def test_a_marked_checkpoint_is_complete_and_says_what_it_was_trained_on(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5, inputs={"split": "a"})
    assert is_complete(checkpoint)
    assert checkpoint_inputs(checkpoint) == {"split": "a"}
    assert checkpoint_size(checkpoint) == len(b"weights") + len(b"moments") + len("{}")


@pytest.mark.parametrize("damage", ["unmarked", "half a mark", "file gone", "deep file gone", "shorter", "longer"])
def test_a_damaged_checkpoint_is_not_complete_and_is_removed(tmp_path: Path, damage: str) -> None:
    complete = make_checkpoint(tmp_path, 4)
    checkpoint = make_checkpoint(tmp_path, 5)
    mark, weights = checkpoint / COMPLETE_FILE, checkpoint / "model.safetensors"
    {
        "unmarked": mark.unlink,
        "half a mark": lambda: mark.write_text(mark.read_text()[:-10]),
        "file gone": weights.unlink,
        "deep file gone": lambda: shutil.rmtree(checkpoint / "global_step5"),
        "shorter": lambda: weights.write_bytes(b"weight"),
        "longer": lambda: weights.write_bytes(b"weights and more"),
    }[damage]()
    assert complete_checkpoints(tmp_path) == [complete]
    remove_incomplete(tmp_path)
    assert sorted(tmp_path.iterdir()) == [complete]


def test_steps_are_ordered_by_number_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    checkpoints = [make_checkpoint(tmp_path, step) for step in (9, 10, 100)]
    (tmp_path / "checkpoint-best").mkdir()
    remove_incomplete(tmp_path)
    assert complete_checkpoints(tmp_path) == checkpoints
    assert (tmp_path / "checkpoint-best").exists()


@pytest.mark.parametrize(
    ("limit", "best", "newest", "kept"),
    [
        (None, None, 4, [1, 2, 3, 4]),
        (2, None, 4, [3, 4]),
        (1, None, 4, [4]),
        (1, 2, 4, [2, 4]),
        (2, 1, 4, [1, 4]),
        (2, 4, 4, [3, 4]),
        (2, None, 3, [2, 3]),  # resumed from checkpoint 2: 4 is of the run that was left
    ],
)
def test_the_newest_and_the_best_stay(
    tmp_path: Path, limit: int | None, best: int | None, newest: int, kept: list[int]
) -> None:
    checkpoints = {step: make_checkpoint(tmp_path, step) for step in (1, 2, 3, 4)}
    remove_older(tmp_path, newest, limit, None if best is None else str(checkpoints[best]))
    assert complete_checkpoints(tmp_path) == [checkpoints[step] for step in kept]


@pytest.mark.parametrize("tuning", ["full", "lora", "weights only", "muon"])
def test_the_estimate_is_what_is_written(tmp_path: Path, tuning: str) -> None:
    model, _, _ = make_model(make_catalog())
    args = TrainingArguments(output_dir=str(tmp_path), save_only_model=tuning == "weights only", use_cpu=True)
    args.muon = tuning == "muon"
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=8))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    saved = trained if tuning == "lora" else list(model.parameters())
    save_file({str(number): weight.detach() for number, weight in enumerate(saved)}, tmp_path / "model.safetensors")
    written = (tmp_path / "model.safetensors").stat().st_size
    if tuning != "weights only":
        matrices = layer_matrices(model) if tuning == "muon" else []
        chosen = {id(matrix) for matrix in matrices}
        optimizer = torch.optim.AdamW([parameter for parameter in trained if id(parameter) not in chosen])
        if matrices:
            optimizer = MuonWithRest(matrices, optimizer, lr=1e-3, weight_decay=0.0)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        written += (tmp_path / "optimizer.pt").stat().st_size
    overhead = 1000 * len(saved)  # names, shapes, steps
    assert written - overhead < estimated_checkpoint_size(model, args) <= written


@pytest.mark.parametrize(
    ("saves", "there", "checkpoints"),
    [
        (0, 0, 0),  # only the final model
        (1, 0, 1),
        (9, 0, 3),
        (9, 2, 3),
    ],
)
def test_room_for_one_checkpoint_more_than_is_kept_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int, there: int, checkpoints: int
) -> None:
    model = torch.nn.Linear(100, 100, bias=False)  # 40 kB, and 80 of moments
    args = TrainingArguments(output_dir=str(tmp_path), save_total_limit=2, use_cpu=True)
    for step in range(there):
        make_checkpoint(tmp_path, step, complete=False)
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(bytes(60_000))
        mark_complete(tmp_path / f"checkpoint-{step}", {})
    used = sum(map(checkpoint_size, complete_checkpoints(tmp_path)))
    needed = checkpoints * 120_000 - used + 40_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    check_free_space(tmp_path, model, args, saves)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(OSError, match=f"up to {checkpoints} checkpoints at once, each of 0.1 MB.*--output_dir"):
        check_free_space(tmp_path, model, args, saves)
