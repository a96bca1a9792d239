"""Recipes in processes that may die, forked from one that has imported them: a start costs a second, not fifteen."""

import multiprocessing
import os
import shutil
import signal
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from llmrec.training import faults
from tests.recipes.conftest import load_recipe

RECIPES = {name: load_recipe(name) for name in ("lcrec", "lrem", "setrec", "ulmrec")}

#: Something done to the child before its recipe starts.
Sabotage = Callable[[], None]


def start(
    argv: list[str], log: Path, sabotage: Sabotage | None = None, processes: int = 1, recipe: str = "lcrec"
) -> list[BaseProcess]:
    """Start a recipe on ``processes`` processes that write what they say to ``log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    port = free_port()
    started = []
    for rank in range(processes):
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if processes > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        started.append(context.Process(target=_main, args=(recipe, argv, str(log), environment, sabotage)))
        started[-1].start()
    return started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(
    argv: list[str], log: Path, sabotage: Sabotage | None = None, processes: int = 1, recipe: str = "lcrec"
) -> list[int | None]:
    """Exit codes of a recipe's processes; negative for the signal that ended one."""
    started = start(argv, log, sabotage, processes, recipe)
    for process in started:
        process.join(timeout=300)
    return [process.exitcode for process in started]


def _main(recipe: str, argv: list[str], log: str, environment: dict[str, str], sabotage: Sabotage | None) -> None:
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if sabotage is not None:
        sabotage()
    RECIPES[recipe].main(argv)


def die() -> None:
    """End at once, as the kernel ends a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing_the_optimizer() -> None:
    """Half of the second optimizer.pt is written."""
    save, seen = torch.save, []

    def half_saved(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save(content, path, *args, **kwargs)
        if str(path).endswith("optimizer.pt"):
            seen.append(path)
            if len(seen) == 2:
                os.truncate(path, Path(path).stat().st_size // 2)
                die()

    torch.save = half_saved


def die_before_the_checkpoint_is_marked() -> None:
    """Everything of the second checkpoint is written but that it is complete."""
    mark, seen = faults.mark_complete, []

    def marked(*args: Any) -> None:
        seen.append(args)
        if len(seen) == 2:
            die()
        mark(*args)

    faults.mark_complete = marked


def die_while_removing_a_checkpoint() -> None:
    """Half of the files of a checkpoint that is no longer needed are gone."""

    def half_removed(path: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG001
        if "checkpoint-" in str(path):
            for file in sorted(Path(path).iterdir())[1::2]:
                file.unlink()
            die()

    shutil.rmtree = half_removed


def die_in_the_test() -> None:
    """Training is over, and the final checkpoint saved."""
    for recipe in RECIPES.values():
        assert hasattr(recipe, "load_checkpoint"), "a recipe tests the checkpoint that it has saved"
        recipe.load_checkpoint = lambda *args, **kwargs: die()  # noqa: ARG005


def fill_disk(folder: Path, room: int) -> None:
    """Leave ``room`` bytes on the disk of ``folder`` once the first checkpoint is complete."""
    mark = faults.mark_complete

    def marked(*args: Any) -> None:
        mark(*args)
        with (folder / "filler").open("ab") as filler:
            filler.write(bytes(shutil.disk_usage(folder).free - room))

    faults.mark_complete = marked


def lose_the_number(step: int, rank: int = 0) -> None:
    """The loss of ``step`` is NaN on one process, as where a batch overflows."""
    training_step = Trainer.training_step

    def poisoned(self: Trainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = training_step(self, *args, **kwargs)
        bad = self.state.global_step + 1 == step and self.args.process_index == rank
        return loss * float("nan") if bad else loss

    Trainer.training_step = poisoned
