"""What each part of the recommended LC-Rec brings: one change at a time, over seeds.

    python -m benchmarks.ablation --dataset_dir data/ml-100k

Runs recipes/lcrec.py as it is and with one part changed, once for each seed (a run that is finished is read, not
repeated), and writes a table, a picture and a JSON file. Choose on the validation columns; the test columns, with the
paired difference to the recommended configuration over users, are there to be reported.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.decoding_measure import hardware, versions
from benchmarks.quality import FUSED, mean_per_user
from benchmarks.recipe_runs import best_step, run_folder, run_recipe
from benchmarks.seed_plot import draw_seeds
from llmrec.atomic import atomic_path, write_json
from llmrec.catalog import Catalog
from llmrec.metrics import paired_bootstrap

RECOMMENDED = "recommended"
#: Row of the table -> options of the recipe.
CHANGES = {
    RECOMMENDED: [],
    "targets as they are": ["--distillation", "0"],
    "codes start anywhere": ["--start_from_codebooks", "false"],
    "AdamW": ["--muon", "false"],
    "no dropout": ["--dropout", "0"],
    "dropout .2": ["--dropout", "0.2"],
    "IDs from text": ["--item_embedding", "text"],
    "IDs from co-occurrence": ["--item_embedding", "collaborative"],
    "64 components": ["--num_components", "64"],
    "shares by evidence": ["--collaborative_weight", "1", "--collaborative_shrinkage", "10", "--num_components", "64"],
    "3 codebooks of 256": ["--num_codebooks", "3", "--codebook_size", "256"],
    "4 layers of width 128": ["--num_layers", "4", "--hidden_size", "128"],
}
VALUES = ("valid", "valid_fused", "valid_nats", "test", "test_fused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--runs_dir", default="outputs/ablation", help="where the runs' folders are made")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipe, last")
    parser.add_argument("--output", help="JSON file; None: benchmarks/results/ablation_<dataset>.json")
    args = parser.parse_args()
    if any(option.startswith(("--refit", "--fusion_weight")) for option in args.options):
        parser.error("this table has what validation says of every fusion weight: no --refit, no --fusion_weight")
    dataset = Path(args.dataset_dir).name
    output = Path(args.output or f"benchmarks/results/ablation_{dataset}.json")
    rows, first_runs = [], []
    reference: dict[str, np.ndarray] = {}
    for change in dict.fromkeys([RECOMMENDED, *args.changes]):
        runs = []
        for seed in args.seeds:
            folder = run_folder(Path(args.runs_dir) / dataset, change, seed)
            options = ["--dataset_dir", args.dataset_dir, *CHANGES[change], *args.options]
            runs.append({**run_recipe("lcrec", folder, seed, options), "folder": folder})
        rows.append(row(change, runs, reference))
        first_runs.append(runs[0])
        print(format_row(rows[-1]), flush=True)
    title = f"{first_runs[0]['protocol']['dataset']}, split {first_runs[0]['split_fingerprint']}"
    protocols = {one["change"]: run["protocol"] for one, run in zip(rows, first_runs, strict=True)}
    measured = {"protocols": protocols, "hardware": hardware("cpu"), "versions": versions(), "seeds": args.seeds}
    write_json(output, {**measured, "rows": rows})
    plot(rows, title, output.with_suffix(".png"))


def row(change: str, runs: list[dict[str, Any]], reference: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the runs of one change came to.

    Args:
        change: a name of ``CHANGES``.
        runs: one for each seed, with their folders.
        reference: ndcg@10 of every user under the recommended configuration, which the first call puts there.
    """
    steps = [best_step(run["folder"]) for run in runs]
    found: dict[str, Any] = {
        "change": change,
        "valid": [step["eval_ndcg@10"] for step in steps],
        "valid_fused": [max(run["protocol"]["valid_ndcg@10_by_weight"].values()) for run in runs],
        # the loss is a code's mean; in nats an item, IDs of other lengths compare
        "valid_nats": [
            step["eval_loss"] * Catalog.load(run["folder"]).num_codebooks for step, run in zip(steps, runs, strict=True)
        ],
        "test": [run["results"]["lcrec"]["ndcg@10"] for run in runs],
        "test_fused": [run["results"].get(FUSED, run["results"]["lcrec"])["ndcg@10"] for run in runs],
        "training_minutes": [run["seconds"].get("training", 0.0) / 60 for run in runs],
    }
    for column, name in (("test", "lcrec"), ("test_fused", FUSED)):
        per_user = mean_per_user(name, runs)
        found[f"less_{column}"] = paired_bootstrap(per_user, reference.setdefault(column, per_user), seed=0)._asdict()
    return found


def format_row(found: dict[str, Any]) -> str:
    """Means over seeds, and the differences to the recommended configuration on test."""
    line = f"{found['change']:<24}" + " ".join(f"{name} {np.mean(found[name]):.4f}" for name in VALUES)
    for column in ("test", "test_fused"):
        less = found[f"less_{column}"]
        line += f"; {column} {less['difference']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})"
    return line


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Validation ndcg@10 of each row less the recommended one's with the same seed: a dot for each seed; a PNG."""
    figure = Figure(figsize=(11, 1.2 + 0.35 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: validation ndcg@10 less the recommended one's, seed by seed", fontsize=10)
    names = [one["change"] for one in rows]
    panels = {"valid": "LC-Rec alone", "valid_fused": "with item-kNN in the search"}
    for axes, (column, label) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        values = [np.subtract(one[column], rows[0][column]).tolist() for one in rows]
        draw_seeds(axes, names, values, [(min(less), max(less)) for less in values], label, names[:1])
        axes.axvline(0, color="#dddddd", zorder=0)
    axes.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


if __name__ == "__main__":
    main()
