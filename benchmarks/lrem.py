"""LREM beside BM25 and the same backbone without thoughts: does thinking help, and does reinforcement?

    python -m benchmarks.lrem --queries_dir data/ml-100k_queries

Runs recipes/lrem.py for each seed: without reasoning, then its two stages; a run that is finished is read, not
repeated. The table has hit_rate@10 by kind of query, means over seeds; the picture shows the three rewards. Checkpoints
were chosen on validation queries.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.decoding_measure import hardware, versions
from benchmarks.recipe_runs import run_folder, run_recipe
from llmrec.atomic import atomic_path, write_json

REWARDS = ("thought_format", "thought_length", "thought_rank")
METRICS = ("hit_rate@10", "precision@10", "ndcg@10", "recall@100", "judged@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries_dir", default="data/ml-100k_queries", help="folder of data_prep/queries.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs_dir", default="outputs/lrem_benchmark", help="where the runs' folders are made")
    parser.add_argument("--show_failed", type=int, default=0, help="print so many queries, BM25's worst")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipe, last")
    parser.add_argument("--output", default="benchmarks/results/lrem_ml-100k.json")
    args = parser.parse_args()
    runs = [run for seed in args.seeds for run in run_seed(args, seed)]
    rows = table(runs)
    print_table(rows, METRICS, "all")
    print_table(rows, ["hit_rate@10"], *rows[0]["by_kind"])
    curves = {seed: rewards(run_folder(args.runs_dir, "thinking", seed)) for seed in args.seeds}
    differences = {run["seed"]: run["difference"] for run in runs if "difference" in run}
    for seed, found in differences.items():
        low, high = found["hit_rate@10"]["interval"]
        change = found["hit_rate@10"]["difference"]
        print(f"seed {seed}: hit_rate@10 of lrem less cold start {change:+.4f} ({low:+.4f} to {high:+.4f})")
    folders = {name: run_folder(args.runs_dir, name, args.seeds[0]) for name in ("no reasoning", "thinking")}
    show_failed(folders, args.show_failed)
    measured = {"protocol": runs[-1]["protocol"], "hardware": hardware("cpu"), "versions": versions()}
    seconds = [{name: run[name] for name in ("seed", "name", "seconds")} for run in runs]
    write_json(args.output, {**measured, "table": rows, "differences": differences, "rewards": curves, "runs": seconds})
    plot(curves, Path(args.output).with_suffix(".png"))


def run_seed(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """What the runs of one seed measured: without reasoning, and both stages."""
    shared = ["--queries_dir", args.queries_dir, *args.options]
    plain = run_folder(args.runs_dir, "no reasoning", seed)
    without = run_recipe("lrem", plain, seed, ["--stage", "cold_start", "--reasoning", "False", *shared])
    thinking = run_recipe("lrem", run_folder(args.runs_dir, "thinking", seed), seed, shared)
    return [{"name": "no reasoning", "seed": seed, **without}, {"name": "thinking", "seed": seed, **thinking}]


def table(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each system: means over the seeds, and each seed's numbers."""
    systems = {"bm25": ("thinking", "bm25"), "no reasoning": ("no reasoning", "lrem")}
    systems["cold start"] = ("thinking", "cold start")
    systems["cold start + RL"] = ("thinking", "lrem")
    for thoughts in ("empty", "random", "query"):
        systems[f"RL, thoughts: {thoughts}"] = ("thinking", f"lrem, thoughts: {thoughts}")
    rows = []
    for name, (of_run, result) in systems.items():
        found = [run for run in runs if run["name"] == of_run]
        kinds = found[0]["by_kind"][result]
        rows.append(
            {
                "system": name,
                "all": _means([run["results"][result] for run in found]),
                "by_kind": {kind: _means([run["by_kind"][result][kind] for run in found]) for kind in kinds},
                "seeds": [run["results"][result]["hit_rate@10"] for run in found],
            }
        )
    return rows


def _means(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {metric: float(np.mean([result[metric] for result in results])) for metric in METRICS}


def print_table(rows: Sequence[dict[str, Any]], metrics: Sequence[str], *groups: str) -> None:
    """The metrics of each group of queries, side by side."""
    cells = [(group, metric) for group in groups for metric in metrics]
    print("\n" + " " * 22 + " ".join(f"{group if len(groups) > 1 else metric:>13}" for group, metric in cells))
    for row in rows:
        values = [(row["all"] if group == "all" else row["by_kind"][group])[metric] for group, metric in cells]
        print(f"{row['system']:<22}" + " ".join(f"{value:13.4f}" for value in values), flush=True)


def rewards(folder: Path) -> dict[str, list[float]]:
    """The three rewards of the second stage by step."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name[11:]))
    log = json.loads(states[-1].read_text())["log_history"] if states else []
    entries = [entry for entry in log if f"rewards/{REWARDS[0]}/mean" in entry]
    curves = {reward: [entry[f"rewards/{reward}/mean"] for entry in entries] for reward in REWARDS}
    return {"step": [entry["step"] for entry in entries], **curves}


def show_failed(folders: dict[str, Path], count: int) -> None:
    """The queries that BM25 answers worst, with the ndcg@10 of every system."""
    plain, queries = (json.loads((folder / "queries.json").read_text()) for folder in folders.values())
    for row in sorted(range(len(queries)), key=lambda row: queries[row]["ndcg@10"]["bm25"])[:count]:
        found = {"no reasoning": plain[row]["ndcg@10"]["lrem"], **queries[row]["ndcg@10"]}
        print(f"{queries[row]['query']}: {'  '.join(f'{name} {value:.3f}' for name, value in found.items())}")


def plot(curves: dict[int, dict[str, list[float]]], path: Path) -> None:
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for reward, axes in zip(REWARDS, figure.subplots(1, len(REWARDS)), strict=True):
        for seed, curve in curves.items():
            axes.plot(curve["step"], curve[reward], label=f"seed {seed}")
        axes.set(title=reward.replace("_", ": "), xlabel="step")
        axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


if __name__ == "__main__":
    main()
