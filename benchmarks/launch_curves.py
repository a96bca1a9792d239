"""The same training launched on one process, two, ZeRO-2, ZeRO-3 and FSDP2: loss curves, and what a kill changes.

    python -m benchmarks.launch_curves

Every launch has the same global batch. Each is run twice: unbroken, and killed (SIGKILL to all of its processes) after
its first checkpoint and started again. Needs two CPU cores and no GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from safetensors.torch import load_file

from benchmarks.decoding_measure import hardware
from benchmarks.training_measure import versions
from llmrec.atomic import write_json
from llmrec.training.checkpoints import complete_checkpoints

ROOT = Path(__file__).resolve().parents[1]
GLOBAL_BATCH = 16

#: Launch -> its number of processes.
LAUNCHES = {"cpu": 1, "cpu_2proc": 2, "zero2": 2, "zero3": 2, "fsdp2": 2}

#: Largest difference of a loss from that of one process, and of a resumed run's from an unbroken one's.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Launch:
    """A recipe under one of accelerate_configs/.

    Args:
        name: of the YAML file.
        num_processes: on the CPU of this machine.
        options: of the recipe, without batch size and output folder.
        launcher_options: of ``accelerate launch``.
        recipe: name of the script.
    """

    name: str
    num_processes: int
    options: tuple[str, ...]
    launcher_options: tuple[str, ...] = ("--main_process_port", "0")
    recipe: str = "lcrec"

    def start(self, output: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start it in the background; what it prints goes to ``log``."""
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", f"accelerate_configs/{self.name}.yaml", "--mixed_precision", "no"]
        command += ["--num_processes", str(self.num_processes), *self.launcher_options, f"recipes/{self.recipe}.py"]
        batch = str(GLOBAL_BATCH // self.num_processes)
        command += [*self.options, "--per_device_train_batch_size", batch, "--output_dir", str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
        with log.open("ab") as file:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def run(self, output: Path, log: Path) -> None:
        """Run it to its end.

        Raises:
            RuntimeError: if it fails.
        """
        if self.start(output, log).wait() != 0:
            raise RuntimeError(f"The launch {self.name} failed:\n{log.read_text()[-4000:]}")

    def kill_after_first_checkpoint(self, output: Path, log: Path) -> int:
        """Start it, and kill all of its processes once a checkpoint is complete; returns the checkpoint's step.

        Raises:
            RuntimeError: if it ended by itself before.
        """
        launcher = self.start(output, log)
        while launcher.poll() is None and not complete_checkpoints(output):
            time.sleep(0.02)
        kill(launcher)
        if (output / "report.txt").exists() or not complete_checkpoints(output):
            raise RuntimeError(f"The launch {self.name} ended before it could be killed:\n{log.read_text()[-4000:]}")
        return int(complete_checkpoints(output)[-1].name.split("-")[1])


def kill(launcher: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a launcher and all that it started."""
    if launcher.poll() is not None:
        return  # it ended by itself
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)


def losses(output: Path) -> list[float]:
    """Training loss of every step, from the last checkpoint of a run that logs each."""
    state = json.loads((complete_checkpoints(output)[-1] / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def largest_difference(first: list[float], second: list[float]) -> float:
    """Between two curves of the same length."""
    return max(abs(one - other) for one, other in zip(first, second, strict=True))


def weight_difference(first: Path, second: Path) -> float:
    """Largest difference between the weights of two finished runs."""
    weights, others = (load_file(output / "model.safetensors") for output in (first, second))
    return max(float((weights[name] - others[name]).abs().max()) for name in weights.keys() | others.keys())


def measure(launch: Launch, folder: Path) -> dict[str, Any]:
    """Curve and seconds of an unbroken run, and how a killed and resumed one differs from it."""
    unbroken, killed = folder / launch.name, folder / f"{launch.name}-killed"
    start = time.perf_counter()
    launch.run(unbroken, folder / f"{launch.name}.log")
    seconds = round(time.perf_counter() - start, 1)
    step = launch.kill_after_first_checkpoint(killed, folder / f"{launch.name}-killed.log")
    launch.run(killed, folder / f"{launch.name}-killed.log")
    return {
        "num_processes": launch.num_processes,
        "seconds": seconds,
        "loss": losses(unbroken),
        "test_ndcg@10": json.loads((unbroken / "metrics.json").read_text())["results"]["lcrec"]["ndcg@10"],
        "killed_after_step": step,
        "resumed_loss_difference": largest_difference(losses(killed), losses(unbroken)),
        "resumed_weight_difference": weight_difference(killed, unbroken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--launches", nargs="+", choices=LAUNCHES, default=list(LAUNCHES), metavar="LAUNCH")
    parser.add_argument("--output", default="benchmarks/results/launch_curves.json")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipe, last")
    args = parser.parse_args()
    is_pretrained = "--model_name_or_path" in args.options
    options = ["--dataset_dir", str(Path(args.dataset_dir).resolve()), "--max_steps", str(args.steps)]
    options += ["--save_strategy", "steps", "--save_steps", str(args.steps // 2), "--valid_users", "50"]
    options += ["--logging_steps", "1", "--disable_tqdm", "True"]
    # grouped batches depend on the number of processes, each process draws its own dropout, and Muon can't be sharded
    options += ["--train_sampling_strategy", "random", "--muon", "false"]
    options += [*([] if is_pretrained else ["--dropout", "0"]), *args.options]
    runs: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        for name in dict.fromkeys(["cpu", *args.launches]):
            runs[name] = measure(Launch(name, LAUNCHES[name], tuple(options)), Path(folder))
            runs[name]["loss_difference"] = largest_difference(runs[name]["loss"], runs["cpu"]["loss"])
            print_run(name, runs[name])
    worst = {
        key: max(run[key] for run in runs.values())
        for key in ("loss_difference", "resumed_loss_difference", "resumed_weight_difference")
    }
    settings = {"options": args.options, "steps": args.steps, "global_batch": GLOBAL_BATCH}
    measured = {"settings": settings, "hardware": hardware("cpu"), "launches": runs}
    measured["versions"] = versions()
    write_json(args.output, {**measured, "worst": worst})
    print(" ".join(f"{key}={value:.2g}" for key, value in worst.items()), f"launches={','.join(runs)}")
    if max(worst["loss_difference"], worst["resumed_loss_difference"]) > TOLERANCE:
        sys.exit(f"A loss differs by more than {TOLERANCE}.")


def print_run(name: str, run: dict[str, Any]) -> None:
    """One line."""
    curve = f"loss {run['loss'][0]:.4f} -> {run['loss'][-1]:.4f}, difference {run['loss_difference']:.2g}"
    resumed = f"loss {run['resumed_loss_difference']:.2g}, weights {run['resumed_weight_difference']:.2g}"
    processes = f"{run['num_processes']} process(es)  {run['seconds']:6.1f} s"
    print(f"{name:10} {processes}  {curve}  killed after step {run['killed_after_step']}: {resumed}", flush=True)


if __name__ == "__main__":
    main()
