"""What the reinforcement stage changes: validation and test before and after, over seeds, and one option at a time.

    python -m benchmarks.reinforcement --checkpoints outputs/ml-100k_strict

Runs the recipe for every checkpoint and seed, then with each of --variants on the first checkpoint and seed. A run that
is finished is read, not repeated. Validation chooses the checkpoint of a run, so that its gain there is on the high
side; the gain on the test users is not.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.decoding_measure import hardware, versions
from llmrec.atomic import atomic_path, write_json
from llmrec.training.checkpoints import complete_checkpoints

ROOT = Path(__file__).resolve().parents[1]

#: One change to the defaults each.
VARIANTS: dict[str, list[str]] = {
    "reward ndcg": ["--reward", "ndcg"],
    "targets any": ["--targets", "any"],
    "rollouts samples": ["--rollouts", "samples"],
    "num_generations 32": ["--num_generations", "32", "--per_device_train_batch_size", "1024"],
    "learning_rate 1e-4": ["--learning_rate", "1e-4"],
    "beta 0.1": ["--beta", "0.1"],
}

SHOWN = (("valid", "ndcg@10"), ("valid", "hit_rate@20"), ("valid", "hit_rate@50"), ("test", "ndcg@10"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", default=["outputs/ml-100k_strict"], help="of the first stage")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 1, 2])
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=[], help="on the first of both too")
    parser.add_argument("--config", default="recipes/configs/lcrec/ml-100k_rl.yaml")
    parser.add_argument("--runs_dir", default="outputs/reinforcement", help="where the runs' folders are made")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipe, last")
    parser.add_argument("--output", default="benchmarks/results/rl_ml-100k.json")
    args = parser.parse_args()
    runs = [
        run_recipe(args, checkpoint, "defaults", seed, []) for checkpoint in args.checkpoints for seed in args.seeds
    ]
    for name in args.variants:
        runs.append(run_recipe(args, args.checkpoints[0], name, args.seeds[0], VARIANTS[name]))
    print_table(runs)
    results = {"config": args.config, "hardware": hardware("cpu"), "versions": versions(), "runs": runs}
    write_json(args.output, results)
    plot(runs, Path(args.output).with_suffix(".png"))


def run_recipe(
    args: argparse.Namespace, checkpoint: str, variant: str, seed: int, options: list[str]
) -> dict[str, Any]:
    """Train once, in a process of its own, and read what the run left behind."""
    folder = Path(args.runs_dir) / f"{Path(checkpoint).name}_{variant.replace(' ', '_')}_seed{seed}"
    command = [sys.executable, str(ROOT / "recipes" / "lcrec.py"), "--config", args.config]
    command += ["--model_name_or_path", checkpoint, "--output_dir", str(folder), "--seed", str(seed)]
    command += ["--disable_tqdm", "True", *options, *args.options]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    log = json.loads((complete_checkpoints(folder)[-1] / "trainer_state.json").read_text())["log_history"]
    return {
        "checkpoint": Path(checkpoint).name,
        "variant": variant,
        "seed": seed,
        "seconds": json.loads((folder / "metrics.json").read_text())["seconds"],
        "before_after": json.loads((folder / "before_after.json").read_text()),
        "validations": [
            {"epoch": entry["epoch"]} | {name[5:]: value for name, value in entry.items() if "@" in name}
            for entry in log
            if "eval_ndcg@10" in entry
        ],
        "groups_without_hit": [
            {"epoch": entry["epoch"], "share": entry["groups_without_hit"]}
            for entry in log
            if "groups_without_hit" in entry
        ],
    }


def print_table(runs: list[dict[str, Any]]) -> None:
    """Before, after and the paired interval of validation; before and after of test."""
    width = max(len(label(run)) for run in runs)
    for run in runs:
        cells = [label(run).ljust(width)]
        for split, metric in SHOWN:
            numbers = run["before_after"].get(split, {}).get(metric)
            if numbers is not None:
                low, high = numbers["interval"]
                cells.append(
                    f"{split} {metric} {numbers['before']:.4f} -> {numbers['after']:.4f} ({low:+.4f} to {high:+.4f})"
                )
        print("  ".join(cells))
    gains = [run["before_after"]["valid"]["ndcg@10"]["difference"] for run in runs if run["variant"] == "defaults"]
    tests = [run["before_after"]["test"]["ndcg@10"]["difference"] for run in runs if run["variant"] == "defaults"]
    worst = max(run["seconds"]["training"] for run in runs if run["variant"] == "defaults")
    print(
        f"valid_ndcg_gain={np.mean(gains):.4f} smallest={min(gains):.4f} test_ndcg_gain={np.mean(tests):.4f} "
        f"longest_training_seconds={worst:.0f}"
    )


def label(run: dict[str, Any]) -> str:
    return f"{run['checkpoint']}, {run['variant']}, seed {run['seed']}"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Validation ndcg@10 and hit_rate@20 over the epochs of every run; a PNG at ``path``."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, 2), ("ndcg@10", "hit_rate@20"), strict=True):
        for run in runs:
            points = [point for point in run["validations"] if metric in point]
            axes.plot(
                [point["epoch"] for point in points],
                [point[metric] for point in points],
                marker="o",
                linewidth=2 if run["variant"] == "defaults" else 0.8,
                label=label(run),
            )
        axes.set_xlabel("passes over the users")
        axes.set_title(f"validation {metric}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


if __name__ == "__main__":
    main()
