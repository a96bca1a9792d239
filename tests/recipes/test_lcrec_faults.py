"""What stops the recipe: killed anywhere, it ends as if it had not been; a full disk, a lost process and NaN say so."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from llmrec.training.checkpoints import complete_checkpoints
from tests.recipes.conftest import ROOT, TINY
from tests.recipes.recipe_process import (
    die_before_the_checkpoint_is_marked,
    die_in_the_test,
    die_while_removing_a_checkpoint,
    die_while_writing_the_optimizer,
    fill_disk,
    free_port,
    lose_the_number,
    run,
    start,
)

pytestmark = pytest.mark.slow

#: Stops early by itself (after 18 of 480 steps), and saves in the middle of passes.
OPTIONS = [
    *("--num_train_epochs", "40", "--learning_rate", "5e-3", "--early_stopping_patience", "2"),
    *("--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1"),
    *("--muon", "false"),  # disks and sizes below are for AdamW's two moments
]


def _argv(dataset: Path, output: Path, *options: str) -> list[str]:
    return ["--dataset_dir", str(dataset), "--output_dir", str(output), *TINY, *OPTIONS, *options]


@pytest.fixture(scope="module")
def unbroken(ring_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert run(_argv(ring_dataset, folder / "out"), folder / "log") == [0]
    assert _state(folder / "out")["global_step"] < _state(folder / "out")["max_steps"], "this run stops early"
    return folder / "out"


def test_killed_again_and_again_it_ends_with_the_same_bytes(ring_dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    argv = _argv(ring_dataset, output)
    for die in (
        die_while_writing_the_optimizer,
        die_before_the_checkpoint_is_marked,
        die_while_removing_a_checkpoint,
    ):
        assert run(argv, log, die) == [-9], log.read_text()
        assert complete_checkpoints(output), f"{die.__name__} left no checkpoint"
    chance = random.Random(0)
    for _ in range(2):
        (process,) = start(argv, log)
        earlier = _names(output)
        _wait_for(lambda: process.exitcode is not None or _names(output) - earlier)  # noqa: B023
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.join()
        assert complete_checkpoints(output)
    assert run(argv, log, die_in_the_test) == [-9], log.read_text()
    assert run(argv, log) == [0], log.read_text()
    assert _state(output)["global_step"] == _state(unbroken)["global_step"], "a run that was over trained on"
    assert (output / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert _results(output) == _results(unbroken)


def test_a_process_that_dies_ends_the_launch_with_advice_and_resuming_ends_as_unbroken(
    ring_dataset: Path, tmp_path: Path
) -> None:
    options = ("--per_device_train_batch_size", "4")
    argv = _argv(ring_dataset, tmp_path / "out", *options)
    launch = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    launch += ["--main_process_port", str(free_port())]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *launch, "recipes/lcrec.py", *argv], cwd=ROOT, stdout=log, stderr=log
        )
        _wait_for(lambda: process.poll() is not None or complete_checkpoints(tmp_path / "out"))
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if child.environ().get("RANK") == "1").kill()
        assert process.wait(timeout=60) != 0
    said = (tmp_path / "log").read_text()
    assert "another process of this launch" in said.lower(), said
    assert "The same command resumes from there." in said
    assert run(argv, tmp_path / "log", processes=2) == [0, 0], (tmp_path / "log").read_text()
    assert run(_argv(ring_dataset, tmp_path / "whole", *options), tmp_path / "log", processes=2) == [0, 0]
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert resumed.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-4, atol=1e-5)


def test_told_to_end_it_says_where_the_same_command_goes_on(ring_dataset: Path, tmp_path: Path) -> None:
    (process,) = start(_argv(ring_dataset, tmp_path / "out"), tmp_path / "log")
    _wait_for(lambda: complete_checkpoints(tmp_path / "out"))
    process.terminate()
    process.join(timeout=60)
    said = (tmp_path / "log").read_text()
    assert process.exitcode == -15, said
    assert f"The last complete checkpoint is {tmp_path / 'out' / 'checkpoint-'}" in said.split("(SIGTERM)")[1]


def test_a_loss_that_is_no_number_stops_all_processes_before_a_checkpoint(ring_dataset: Path, tmp_path: Path) -> None:
    argv = _argv(ring_dataset, tmp_path / "out", "--per_device_train_batch_size", "4", "--bf16", "False")
    codes = run(argv, tmp_path / "log", partial(lose_the_number, 10, rank=1), processes=2)
    said = (tmp_path / "log").read_text()
    assert codes == [1, 1], said
    assert "The training loss of step 10 is nan (learning rate 0.00" in said
    checkpoint = tmp_path / "out" / "checkpoint-8"
    assert f"The last complete checkpoint is {checkpoint}: named in --resume_from_checkpoint, training goes on" in said
    assert "Another process of this launch ended" in said
    assert [path.name for path in complete_checkpoints(tmp_path / "out")][-1:] == ["checkpoint-8"]
    for advice in (
        ("--resume_from_checkpoint", str(checkpoint), "--max_grad_norm", "0.5", "--max_steps", "10"),
        ("--model_name_or_path", str(checkpoint), "--learning_rate", "1e-3", "--max_steps", "2"),
    ):
        argv = _argv(ring_dataset, tmp_path / advice[0].strip("-"), *advice)
        assert run(argv, tmp_path / "log") == [0], (tmp_path / "log").read_text()


@pytest.mark.parametrize("room", [50_000, 700_000], ids=["weights", "optimizer"])
def test_a_full_disk_keeps_the_last_checkpoint_and_says_what_to_do(
    ring_dataset: Path, unbroken: Path, tmp_path: Path, room: int
) -> None:
    with small_disk(tmp_path / "disk", 8_000_000) as disk:
        argv = _argv(ring_dataset, disk / "out")
        assert run(argv, tmp_path / "log", partial(fill_disk, disk, room)) == [1]
        said = (tmp_path / "log").read_text()
        assert f"the disk of {disk / 'out'} is full" in said, said
        assert "One checkpoint takes 1.3 MB" in said
        assert f"The last complete checkpoint is {disk / 'out' / 'checkpoint-2'}. The same command resumes" in said
        assert _names(disk / "out") == {"checkpoint-2"}
        (disk / "filler").unlink()
        if room == 700_000:  # the same way back for both
            assert run(argv, tmp_path / "log") == [0], (tmp_path / "log").read_text()
            assert (disk / "out" / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


def test_a_disk_that_fills_while_the_data_is_prepared_leaves_nothing_half_made(
    ring_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 2_000_000) as disk:
        dataset, filler = disk / "ring", disk / "filler"
        shutil.copytree(ring_dataset, dataset, ignore=_other_artefacts)
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 5_000))
        argv = _argv(dataset, tmp_path / "out")
        assert run(argv, tmp_path / "log") == [1]
        said = (tmp_path / "log").read_text()
        assert f"the disk of {dataset} is full" in said, said
        filler.unlink()
        assert run(argv, tmp_path / "log") == [0], (tmp_path / "log").read_text()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


def test_too_small_a_disk_is_refused_before_training(ring_dataset: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 3_000_000) as disk:
        assert run(_argv(ring_dataset, disk / "out"), tmp_path / "log") == [1]
        said = (tmp_path / "log").read_text()
        assert "up to 3 checkpoints at once, each of 1.2 MB, and a final model of 0.4 MB" in said, said
        assert not _names(disk / "out")


def _other_artefacts(folder: str, names: list[str]) -> list[str]:  # noqa: ARG001 -- as copytree calls it
    """What tests of other recipes may have made in the dataset's folder before: this disk has no room for it."""
    return [name for name in names if name in ("tokenized", "sasrec", "user_index", "instructions", "embeddings")]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of ``size`` bytes in ``folder``."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "waited for 3 minutes"
        time.sleep(0.02)


def _names(output: Path) -> set[str]:
    return {path.name for path in output.glob("checkpoint-*")}


def _state(output: Path) -> dict:
    return json.loads((complete_checkpoints(output)[-1] / "trainer_state.json").read_text())


def _results(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())["results"]
