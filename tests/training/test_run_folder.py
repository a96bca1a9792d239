"""Starting, resuming and finishing a run; never two runs in one folder, never half a checkpoint."""

import json
from pathlib import Path

import pytest

from llmrec.training.run_folder import open_run


def _checkpoint(folder: Path, step: int, state: str | None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_a_new_run_starts_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", {"seed": 1, "tasks": ("a", "b")})
    assert (run.finished, run.last_checkpoint) == (False, None)
    _checkpoint(tmp_path / "run", 9, json.dumps({}))
    latest = _checkpoint(tmp_path / "run", 10, json.dumps({}))
    assert open_run(tmp_path / "run", {"seed": 1, "tasks": ["a", "b"]}).last_checkpoint == str(latest)


@pytest.mark.parametrize("state", [None, '{"global_step": '])
def test_a_half_written_checkpoint_is_removed_and_the_one_before_is_used(tmp_path: Path, state: str | None) -> None:
    complete = _checkpoint(tmp_path, 5, json.dumps({}))
    broken = _checkpoint(tmp_path, 10, state)
    assert open_run(tmp_path, {}).last_checkpoint == str(complete)
    assert not broken.exists()


def test_a_run_whose_data_has_changed_is_not_resumed(tmp_path: Path) -> None:
    open_run(tmp_path, {}).check_inputs({"split": "a"})
    open_run(tmp_path, {}).check_inputs({"split": "a"})
    with pytest.raises(ValueError, match="Restore the data"):
        open_run(tmp_path, {}).check_inputs({"split": "b"})


def test_a_finished_run_says_so_and_other_options_are_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"seed": 1})
    assert not run.finished
    run.finish("a table")
    assert open_run(tmp_path, {"seed": 1}).finished
    assert run.report == "a table\n"
    with pytest.raises(ValueError, match="seed: 1 -> 2"):
        open_run(tmp_path, {"seed": 2})
    with pytest.raises(ValueError, match="refit: None -> True"):
        open_run(tmp_path, {"seed": 1, "refit": True})
