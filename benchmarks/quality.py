"""All methods beside the floors on one dataset, over seeds: does the recommended configuration beat item-kNN?

    python -m benchmarks.quality --dataset ../shared/data/amazon2014_beauty

Runs each recipe with its defaults once for each seed (a run that is finished is read, not repeated), prints a table in
Markdown, and writes a picture and a JSON file. ``lcrec+item_knn`` is LC-Rec's search with item-kNN mixed in, its weight
from validation. Histories hold at most 20 items, and all items of the catalogue are ranked. Checkpoints, passes and
weights were chosen on validation users only.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import safe_open

from benchmarks import rectools_sasrec
from benchmarks.decoding_measure import hardware, versions
from benchmarks.recipe_runs import ROOT, best_validation, run_folder, run_recipe
from benchmarks.seed_plot import draw_seeds
from llmrec.atomic import atomic_path, write_json
from llmrec.baselines import fused_name
from llmrec.metrics import bootstrap_interval, paired_bootstrap

#: LC-Rec's search with item-kNN mixed in: its lists are the model's own where validation chose a weight of 0.
FUSED = fused_name("lcrec")
#: Recipe -> rows of the table that its runs give.
RECIPES = {"lcrec": (FUSED, "lcrec"), "setrec": ("setrec", "sasrec"), "ulmrec": ("ulmrec",)}
#: The same with RecTools' SASRec.
ROWS = {**RECIPES, rectools_sasrec.ROW: (rectools_sasrec.ROW,)}
FLOORS = ("popularity", "item_knn")
#: What the other rows are compared with, user by user.
BASELINES = ("item_knn", "sasrec", rectools_sasrec.ROW)
#: Histories of all methods, in items.
MAX_HISTORY = 20
METRICS = ("hit_rate@5", "hit_rate@10", "ndcg@5", "ndcg@10")

#: Folder of raw data -> script of data_prep/ and its options.
RAW = {
    "amazon2014_beauty": ("sequences", ["--title_columns", "title", "idgenrec_text"]),
    "amazon2018_industrial": ("published_rows", ["--train_before", "1495152000"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="data/ml-100k", help="prepared folder, or one of " + ", ".join(RAW))
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--rectools_python", help="interpreter that has RecTools, for a row of its SASRec")
    parser.add_argument("--rectools_negatives", type=int, help="items drawn for its softmax; None: the whole catalogue")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs_dir", default="outputs/quality", help="where the runs' folders are made")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipes, last")
    parser.add_argument("--output", help="JSON file; None: benchmarks/results/quality_<dataset>.json")
    args = parser.parse_args()
    if any(option.startswith("--refit") for option in args.options):
        parser.error("--refit leaves no validation to choose on: this table is of strict runs")
    if args.rectools_python is None and args.rectools_negatives is not None:
        parser.error("--rectools_negatives is for --rectools_python, which is not given")
    if args.rectools_python is not None and shutil.which(args.rectools_python) is None:
        parser.error(f"--rectools_python {args.rectools_python} can't be run")
    dataset = prepared(Path(args.dataset))
    output = Path(args.output or f"benchmarks/results/quality_{dataset.name}.json")
    methods = [*args.methods, *([rectools_sasrec.ROW] if args.rectools_python else [])]
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for method, of_method in runs.items():
        for seed in args.seeds:
            folder = run_folder(Path(args.runs_dir) / dataset.name, method, seed)
            metrics = measure(method, dataset, folder, seed, args)
            of_method.append({**metrics, "folder": folder})
            print(f"{method}, seed {seed}: {describe(metrics)}", flush=True)
    rows = table(runs)
    first = next(iter(runs.values()))[0]
    title = f"{first['protocol']['dataset']}, split {first['split_fingerprint']}"
    print(f"\n{title}, {first['protocol']['num_users']} users, strict\n\n{format_table(rows)}")
    protocols = {method: of_method[0]["protocol"] for method, of_method in runs.items()}
    measured = {"protocols": protocols, "hardware": hardware("cpu"), "versions": versions(), "seeds": args.seeds}
    write_json(output, {**measured, "table": rows})
    plot(rows, title, output.with_suffix(".png"))


def prepared(dataset: Path) -> Path:
    """The prepared folder of ``dataset``, made in data/ where it holds raw data."""
    if (dataset / "dataset.json").is_file():
        return dataset
    if dataset.name not in RAW or not dataset.is_dir():
        raise SystemExit(f"{dataset} is no prepared dataset, nor a folder called {' or '.join(RAW)}: see docs/data.md.")
    script, options = RAW[dataset.name]
    folder = Path("data") / dataset.name
    command = [sys.executable, str(ROOT / "data_prep" / f"{script}.py"), "--folder", str(dataset)]
    subprocess.run([*command, "--output_dir", str(folder), *options], check=True)
    return folder


def measure(method: str, dataset: Path, folder: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The content of a run's metrics.json."""
    if method == rectools_sasrec.ROW:
        options = {"num_epochs": 30, "session_max_len": MAX_HISTORY, "num_negatives": args.rectools_negatives}
        return rectools_sasrec.run(args.rectools_python, dataset, folder, seed, options)
    history = ["--dataset_dir", str(dataset), "--max_history", str(MAX_HISTORY)]
    return run_recipe(method, folder, seed, [*history, *args.options])


def describe(metrics: dict[str, Any]) -> str:
    """ndcg@10 of every row."""
    return ", ".join(f"{name} {values['ndcg@10']:.4f}" for name, values in metrics["results"].items())


def table(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each method, with every seed's numbers, and the floors.

    Intervals, of ndcg@10 and of how much more of it a row has than each baseline, are over users: a user's ndcg@10 is
    its mean over the seeds, and the users are drawn anew.
    """
    of_rows = {name: of_method for method, of_method in runs.items() for name in ROWS[method]}
    of_rows |= dict.fromkeys(FLOORS, next(iter(runs.values()))[:1])
    per_user = {name: mean_per_user(name, of_row) for name, of_row in of_rows.items()}
    return [
        {
            **_row(name, of_row),
            "interval": bootstrap_interval(per_user[name], seed=0),
            "less": {
                other: paired_bootstrap(per_user[name], per_user[other], seed=0)._asdict()
                for other in BASELINES
                if other in per_user and name not in (*FLOORS, other)
            },
        }
        for name, of_row in of_rows.items()
    ]


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    timed = name not in (*FLOORS, "sasrec")
    ours = timed and name != rectools_sasrec.ROW
    found = [run["results"][_row_name(name, run)] for run in runs]
    return {
        "name": name,
        "metrics": {metric: [values[metric] for values in found] for metric in METRICS},
        "valid_ndcg@10": [best_validation(run["folder"]) for run in runs] if ours and name != FUSED else None,
        "parameters": num_parameters(runs[0]["folder"]) if ours else None,
        "training_minutes": [run["seconds"].get("training", 0.0) / 60 for run in runs] if timed else None,
        "fusion_weight": [run["protocol"]["fusion_weight"] for run in runs] if name == FUSED else None,
    }


def _row_name(name: str, run: dict[str, Any]) -> str:
    """What ``name`` is called in a run: lists with nothing mixed in are the model's own."""
    return "lcrec" if name == FUSED and name not in run["results"] else name


def mean_per_user(name: str, runs: list[dict[str, Any]]) -> np.ndarray:
    """ndcg@10 of every user, its mean over the seeds: float64 (num_users,)."""
    tables = [
        pq.read_table(run["folder"] / "per_user.parquet", columns=["user_id", _row_name(name, run)]) for run in runs
    ]
    if any(table["user_id"] != tables[0]["user_id"] for table in tables):
        raise ValueError(f"The runs of {name} ranked other users than the first one: delete them and run again.")
    return np.mean([table.column(1).to_numpy() for table in tables], axis=0)


def num_parameters(folder: Path) -> int:
    """Numbers in the checkpoint's weights."""
    count = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as weights:
            count += sum(int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys())  # noqa: SIM118
    return count


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown: means over seeds, of ndcg@10 each seed, its interval, and the differences to baselines."""
    baselines = [other for other in BASELINES if any(other in row["less"] for row in rows)]
    head = ["", *METRICS, "seeds", "95 % interval", *(f"less {other}" for other in baselines), "weights", "parameters"]
    lines = [[*head, "training, min"], ["---"] * (len(head) + 1)]
    for row in rows:
        minutes = row["training_minutes"]
        cells = [row["name"], *(_number(np.mean(row["metrics"][metric])) for metric in METRICS)]
        cells += [" ".join(map(_number, row["metrics"]["ndcg@10"])), "-".join(map(_number, row["interval"]))]
        cells += [_difference(row["less"].get(other)) for other in baselines]
        cells += [" ".join(_number(weight, "g") for weight in row["fusion_weight"] or ())]
        cells += [f"{row['parameters'] / 1e6:.1f}M" if row["parameters"] else ""]
        lines.append([*cells, f"{np.mean(minutes):.1f}" if minutes else ""])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float, form: str = ".4f") -> str:
    """Without the zero before the point."""
    return f"{value:{form}}".replace("0.", ".", 1)


def _difference(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    difference, low, high = (_number(found[name], "+.4f") for name in ("difference", "low", "high"))
    return f"{difference} ({low} to {high})"


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """ndcg@10 of the rows: a dot for each seed, and the mean's interval over users; a PNG at ``path``."""
    figure = Figure(figsize=(7, 0.8 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names, intervals = [row["name"] for row in rows], [row["interval"] for row in rows]
    title = f"{title}: test ndcg@10, seeds and their mean's 95 % interval"
    draw_seeds(axes, names, [row["metrics"]["ndcg@10"] for row in rows], intervals, title, FLOORS)
    axes.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


if __name__ == "__main__":
    main()
