"""The command line refuses what a server or a job should not start with: one line, exit status 2."""

import pytest

from llmrec.cli import main


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in argv])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # main would set it for this process


@pytest.mark.parametrize("keys", ["", ",", "good,", " "])
def test_an_empty_key_is_no_open_door(capsys, monkeypatch, checkpoint_folder, keys):
    monkeypatch.setenv("LLMREC_API_KEYS", keys)
    line = refusal(capsys, "serve", checkpoint_folder, "--engine", "transformers")
    assert line.startswith("llmrec serve: An API key is empty")


@pytest.mark.parametrize(
    ("option", "value"), [("--max_batch_size", 0), ("--num_workers", -1), ("--dtype", "float3"), ("--max_k", 0)]
)
def test_options_are_checked_before_anything_starts(capsys, checkpoint_folder, option, value):
    line = refusal(capsys, "serve", checkpoint_folder, "--engine", "transformers", option, value)
    assert option.removeprefix("--") in line
    assert str(value) in line


def test_what_is_no_checkpoint(capsys, tmp_path):
    assert "llmrec.json" in refusal(capsys, "serve", tmp_path)
    missing = tmp_path / "none"
    arguments = ("--histories", missing, "--output", tmp_path / "out.parquet")
    assert "llmrec recommend: " in refusal(capsys, "recommend", tmp_path, *arguments)
