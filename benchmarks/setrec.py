"""SETRec beside LC-Rec, SASRec, item-kNN and popularity on one split, over seeds.

    python -m benchmarks.setrec

Runs recipes/setrec.py with its two small backbones, and recipes/lcrec.py, on MovieLens-100K split by time, once for
each seed; a run that is finished is read, not repeated. Every choice (checkpoint, beta) was made on validation.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.decoding_measure import hardware, versions
from benchmarks.recipe_runs import ROOT, run_folder, run_recipe
from benchmarks.seed_plot import draw_seeds
from llmrec.atomic import atomic_path, write_json

T5 = ["--config", str(ROOT / "recipes/configs/setrec/t5_ml-100k.yaml")]

#: Row of the table -> recipe and its options.
MODELS: dict[str, tuple[str, list[str]]] = {
    "SETRec, Qwen3": ("setrec", []),
    "SETRec, T5": ("setrec", T5),
    "LC-Rec, Qwen3": ("lcrec", []),
}
#: As the released code masks: what a run without flags does not measure.
RELEASED: dict[str, tuple[str, list[str]]] = {
    "SETRec, Qwen3, causal mask": ("setrec", ["--attention_rule", "causal"]),
    "SETRec, T5, prefixes": ("setrec", [*T5, "--history_loss", "prefix"]),
    "SETRec, T5, no mask": ("setrec", [*T5, "--history_loss", "prefix", "--attention_rule", "bidirectional"]),
}
METRICS = ("recall@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset_dir", default="data/ml-100k_temporal", help="the default is prepared by the first run of SETRec's"
    )
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *RELEASED], default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs_dir", default="outputs/setrec_benchmark", help="where the runs' folders are made")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipes, last")
    parser.add_argument("--output", default="benchmarks/results/setrec_ml-100k_temporal.json")
    args = parser.parse_args()
    runs = [run(args, name, seed) for name in args.models for seed in args.seeds]
    rows = table(runs)
    print_table(rows, runs[0])
    kept = [{name: one[name] for name in ("name", "seed", "protocol", "seconds")} for one in runs]
    results = {"hardware": hardware("cpu"), "versions": versions(), "table": rows, "runs": kept}
    write_json(args.output, results)
    plot(rows, Path(args.output).with_suffix(".png"))


def run(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train once, or read what an earlier call left behind."""
    recipe, options = {**MODELS, **RELEASED}[name]
    folder = run_folder(Path(args.runs_dir) / Path(args.dataset_dir).name, name, seed)
    metrics = run_recipe(recipe, folder, seed, ["--dataset_dir", args.dataset_dir, *options, *args.options])
    return {"name": name, "method": recipe, "seed": seed, **metrics}


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model's mean over its seeds, and the floors; SASRec has a seed too, that of SETRec's runs."""
    rows = []
    for name in dict.fromkeys(run["name"] for run in runs):
        of_model = [run for run in runs if run["name"] == name]
        rows.append(_row(name, of_model, of_model[0]["method"]))
    first = runs[0]
    for floor in ("popularity", "item_knn"):
        rows.append(_row(floor, [first], floor))
    with_sasrec = [run for run in runs if run["name"] == runs[0]["name"] and "sasrec" in run["results"]]
    if with_sasrec:
        rows.append(_row("sasrec", with_sasrec, "sasrec"))
    return rows


def _row(name: str, runs: list[dict[str, Any]], method: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "seeds": [run["seed"] for run in runs]}
    for group in ("all", "warm", "cold"):
        found = [(run["results"] if group == "all" else run.get("groups", {}).get(group, {})) for run in runs]
        values = [results[method] for results in found if method in results]
        if values:
            row[group] = {metric: [value[metric] for value in values] for metric in METRICS}
            row[group]["intervals"] = {metric: values[0]["intervals"][metric] for metric in METRICS}
    row["training_seconds"] = [run["seconds"].get("training", 0.0) for run in runs]
    return row


def print_table(rows: list[dict[str, Any]], run: dict[str, Any]) -> None:
    """Means over seeds; in brackets the 95 % interval over users of the first seed."""
    protocol = run["protocol"]
    print(f"{protocol['dataset']}, split {run['split_fingerprint']}, {protocol['num_users']} test users")
    for row in rows:
        cells = [row["name"].ljust(16)]
        for group in ("all", "warm", "cold"):
            for metric in METRICS:
                if group in row:
                    low, high = row[group]["intervals"][metric]
                    cells.append(f"{group} {metric} {np.mean(row[group][metric]):.4f} ({low:.4f}-{high:.4f})")
        print("  ".join(cells))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Both metrics over all items, a dot for each seed; a PNG at ``path``."""
    figure = Figure(figsize=(10, 0.6 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), METRICS, strict=True):
        intervals = [row["all"]["intervals"][metric] for row in rows]
        title = f"test {metric}: seeds, and the first one's 95 % interval over users"
        draw_seeds(axes, [row["name"] for row in rows], [row["all"][metric] for row in rows], intervals, title)
    axes.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


if __name__ == "__main__":
    main()
