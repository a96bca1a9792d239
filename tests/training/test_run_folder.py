"""Starting, resuming and finishing a run; never two runs in one folder, never half a checkpoint."""

import json
from pathlib import Path

import pytest

from llmrec.training.run_folder import open_run, vocabulary_fingerprint, weights_fingerprint
from tests.tiny import make_catalog, make_model
from tests.training.test_checkpoints import make_checkpoint

SAME = {"split": "a", "catalog": "c", "vocabulary": "v"}


def test_a_new_run_starts_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", {"seed": 1, "tasks": ("a", "b")})
    assert (run.finished, run.last_checkpoint) == (False, None)
    make_checkpoint(tmp_path / "run", 9)
    latest = make_checkpoint(tmp_path / "run", 10)
    assert open_run(tmp_path / "run", {"seed": 1, "tasks": ["a", "b"]}).last_checkpoint == str(latest)


def test_a_half_written_checkpoint_is_removed_and_the_one_before_is_used(tmp_path: Path) -> None:
    open_run(tmp_path, {})
    complete = make_checkpoint(tmp_path, 5)
    broken = make_checkpoint(tmp_path, 10, complete=False)
    assert open_run(tmp_path, {}).last_checkpoint == str(complete)
    assert not broken.exists()


def test_checkpoints_of_something_else_are_neither_used_nor_removed(tmp_path: Path) -> None:
    foreign = make_checkpoint(tmp_path, 5, complete=False)
    with pytest.raises(ValueError, match="name another folder"):
        open_run(tmp_path, {})
    assert foreign.exists()


def test_a_named_checkpoint_is_used_if_it_is_complete(tmp_path: Path) -> None:
    open_run(tmp_path / "run", {})
    first, second = make_checkpoint(tmp_path / "run", 5), make_checkpoint(tmp_path / "run", 10)
    other = make_checkpoint(tmp_path / "other", 7)
    for checkpoint in (first, second, other):
        assert open_run(tmp_path / "run", {}, str(checkpoint)).last_checkpoint == str(checkpoint)


@pytest.mark.parametrize("given", ["True", "checkpoint-5", "{run}/checkpoint-15"])
def test_anything_else_is_refused_with_the_complete_checkpoints_named(tmp_path: Path, given: str) -> None:
    open_run(tmp_path, {})
    complete = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 15, complete=False)
    with pytest.raises(ValueError, match=f"(not a folder|incomplete).*auto, or a complete checkpoint: {complete}"):
        open_run(tmp_path, {}, given.format(run=tmp_path))


@pytest.mark.parametrize("name", SAME)
def test_a_run_is_not_resumed_with_other_data_another_catalog_or_vocabulary(tmp_path: Path, name: str) -> None:
    open_run(tmp_path, {}).check_inputs(SAME)
    open_run(tmp_path, {}).check_inputs(SAME)
    with pytest.raises(ValueError, match=rf"something else \(fingerprints of {name}: . -> other\).*--output_dir"):
        open_run(tmp_path, {}).check_inputs({**SAME, name: "other"})


def test_a_checkpoint_of_another_run_must_have_been_trained_on_the_same(tmp_path: Path) -> None:
    same = make_checkpoint(tmp_path / "same", 5, inputs=SAME)
    open_run(tmp_path / "run", {}, str(same)).check_inputs(SAME)
    other = make_checkpoint(tmp_path / "other", 5, inputs={**SAME, "vocabulary": "w"})
    with pytest.raises(ValueError, match=r"checkpoint-5 was trained on something else .*vocabulary: w -> v"):
        open_run(tmp_path / "run", {}, str(other)).check_inputs(SAME)


def test_the_vocabulary_is_which_token_has_which_id() -> None:
    tokenizers = [make_model(make_catalog(codebook_sizes=sizes))[1] for sizes in ((4, 4, 4), (4, 4, 4), (4, 4, 5))]
    first, same, other = map(vocabulary_fingerprint, tokenizers)
    assert first == same != other


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
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 1}


def test_weights_have_the_fingerprint_of_their_content_wherever_they_lie(tmp_path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(10_000_000))
    with (folders[2] / "model.safetensors").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"x" * 1000)
    first, same, other = map(weights_fingerprint, map(str, folders))
    assert first == same != other
    assert weights_fingerprint("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert weights_fingerprint(None) == "None"
