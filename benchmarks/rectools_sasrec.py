"""SASRec as RecTools trains it, on the split of a prepared dataset, strict; RecTools needs an environment of its own.

    python3.11 -m venv .venv-rectools && .venv-rectools/bin/pip install 'rectools[torch]==0.19.0'
    python -m benchmarks.rectools_sasrec --dataset_dir data/ml-100k --rectools_python .venv-rectools/bin/python

64 dimensions, 2 blocks, softmax loss over the catalogue. RecTools trains on each user's latest --session_max_len + 1
items.
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

from benchmarks.decoding_measure import hardware, versions
from benchmarks.recipe_runs import ROOT
from llmrec.atomic import write_json
from llmrec.dataset import RecDataset
from llmrec.evaluation import EvaluationResult, Evaluator, print_table
from llmrec.recipe.item_features import training_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--rectools_python", required=True, help="interpreter that has RecTools")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--num_epochs", type=int, default=30)
    parser.add_argument("--session_max_len", type=int, default=50)
    parser.add_argument("--output", help="JSON file; None: benchmarks/results/rectools_<dataset>.json")
    args = parser.parse_args()
    dataset = RecDataset.load(args.dataset_dir)
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), "test")
    results: list[EvaluationResult] = []
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        options = {"seed": seed, "num_epochs": args.num_epochs, "session_max_len": args.session_max_len}
        ranked, measured = rank(args.rectools_python, dataset, evaluator, options)
        results.append(evaluator.evaluate(f"rectools sasrec, seed {seed}", ranked))
        intervals = {metric: list(interval) for metric, interval in results[-1].intervals.items()}
        runs.append({**options, **measured, "metrics": results[-1].metrics, "intervals": intervals})
    print_table([*results, *evaluator.floors()], evaluator.protocol)
    output = args.output or f"benchmarks/results/rectools_{Path(args.dataset_dir).name}.json"
    found = {"protocol": evaluator.protocol, "hardware": hardware("cpu"), "versions": versions(), "runs": runs}
    write_json(output, found)


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
