"""SASRec as RecTools trains it, on the split of a prepared dataset, strict; RecTools needs an environment of its own.

    python3.11 -m venv .venv-rectools && .venv-rectools/bin/pip install 'rectools[torch]==0.19.0'
    python -m benchmarks.rectools_sasrec --dataset_dir data/ml-100k --rectools_python .venv-rectools/bin/python

64 dimensions, 2 blocks, softmax over the catalogue, or over drawn items with --num_negatives. RecTools trains on each
user's latest --session_max_len + 1 items. ``benchmarks.quality`` has these runs in its table.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.recipe_runs import ROOT, run_folder
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator, format_table, write_metrics_json, write_per_user
from llmrec.recipe.item_features import training_rows

#: What a table calls these runs.
ROW = "rectools_sasrec"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--rectools_python", required=True, help="interpreter that has RecTools")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--num_epochs", type=int, default=30)
    parser.add_argument("--session_max_len", type=int, default=50)
    parser.add_argument("--num_negatives", type=int, help="of a sampled softmax; None: over the whole catalogue")
    parser.add_argument("--runs_dir", default="outputs/rectools", help="where the runs' folders are made")
    args = parser.parse_args()
    names = ("num_epochs", "session_max_len", "num_negatives")
    options = {name: getattr(args, name) for name in names}
    for seed in args.seeds:
        folder = run_folder(Path(args.runs_dir) / Path(args.dataset_dir).name, ROW, seed)
        run(args.rectools_python, Path(args.dataset_dir), folder, seed, options)
        print(f"\n{(folder / 'report.txt').read_text()}")


def run(interpreter: str, dataset_dir: Path, folder: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The content of metrics.json, as a recipe's run leaves it; a run that is finished is read, not repeated.

    Args:
        interpreter: that has RecTools.
        dataset_dir: of a prepared dataset.
        folder: of the run.
        seed: of everything drawn.
        options: ``num_epochs``, ``session_max_len`` and ``num_negatives``.
    """
    dataset = RecDataset.load(dataset_dir)
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), "test", seed=seed)
    protocol = {**evaluator.protocol, **options, "max_history": options["session_max_len"], "tuning": "full"}
    path = folder / "metrics.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["protocol"] == json.loads(json.dumps(protocol)):
            return found
        raise SystemExit(f"{folder} holds a run of other options or data: delete it, or name another --runs_dir.")
    ranked, measured = rank(interpreter, dataset, evaluator, {"seed": seed, **options})
    results = [evaluator.evaluate(ROW, ranked), *evaluator.floors()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.txt").write_text(format_table(results, protocol))
    write_per_user(folder / "per_user.parquet", evaluator.user_ids, results)
    seconds = {"training": measured["training_seconds"]}
    write_metrics_json(path, protocol, evaluator.protocol["split_fingerprint"], results, seconds)
    return json.loads(path.read_text())


def rank(
    interpreter: str, dataset: RecDataset, evaluator: Evaluator, options: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Lists of the evaluator's users, int64 (num_users, largest k), and what the worker measured."""
    k = max(evaluator.ks)
    # all that a user had, the latest items last: what was viewed is filtered by RecTools
    whole = []
    for seen, history in zip(evaluator.seen, evaluator.histories, strict=True):
        latest = set(history)
        whole.append([*(item for item in seen if item not in latest), *history])
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_sequences(training_rows(dataset, refit=False), folder / "train.csv")
        write_sequences(whole, folder / "histories.csv")
        (folder / "options.json").write_text(json.dumps({**options, "k": k}))
        subprocess.run([interpreter, str(ROOT / "benchmarks" / "rectools_worker.py"), name], check=True)
        table = pd.read_csv(folder / "ranked.csv")
        measured = json.loads((folder / "measured.json").read_text())
    ranked = np.full((len(whole), k), -1, dtype=np.int64)
    ranked[table["user_id"], table["rank"] - 1] = table["item_id"]
    return ranked, measured


def write_sequences(sequences: Sequence[Sequence[int]], path: Path) -> None:
    """A line for each item of each sequence: user, item, place."""
    lengths = [len(sequence) for sequence in sequences]
    columns = {
        "user": np.repeat(np.arange(len(sequences)), lengths),
        "item": [item for sequence in sequences for item in sequence],
        "place": [place for length in lengths for place in range(length)],
    }
    pd.DataFrame(columns).to_csv(path, index=False)


if __name__ == "__main__":
    main()
