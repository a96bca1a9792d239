"""Does a user's index help? No index, codes spelt out, codes as tokens, and the indices of others, over seeds.

    python -m benchmarks.ulmrec --dataset_dir data/ml-100k

Runs recipes/ulmrec.py once for each index and seed; a run that is finished is read, not repeated. The recipe's default
is what does best on validation. A shuffled index is another user's, but as unique and as stable: it can be learnt by
heart, and lacks only what users alike share. The row "next items" has indices without the alignment tasks, as the row
"none" has.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.decoding_measure import hardware, versions
from benchmarks.recipe_runs import best_validation, run_folder, run_recipe
from llmrec.atomic import write_json

#: Row of the table -> options of the recipe.
INDICES = {
    "none": ["--user_index", "none"],
    "next items": ["--user_index", "added_tokens", "--tasks", "none"],
    "subword": ["--user_index", "subword"],
    "added_tokens": ["--user_index", "added_tokens"],
    "shuffled": ["--user_index", "shuffled"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--indices", nargs="+", choices=INDICES, default=list(INDICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs_dir", default="outputs/ulmrec_benchmark", help="where the runs' folders are made")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipe, last")
    parser.add_argument("--output", default="benchmarks/results/ulmrec_ml-100k.json")
    args = parser.parse_args()
    rows = []
    for index in args.indices:
        runs, valid = [], []
        for seed in args.seeds:
            folder = run_folder(args.runs_dir, index, seed)
            options = ["--dataset_dir", args.dataset_dir, *INDICES[index], *args.options]
            runs.append(run_recipe("ulmrec", folder, seed, options))
            valid.append(best_validation(folder))
        rows.append(row(index, runs, valid))
        print(format_row(rows[-1]), flush=True)
    first = runs[0]
    floors = {name: first["results"][name]["ndcg@10"] for name in ("popularity", "item_knn", "sasrec")}
    print(f"split {first['split_fingerprint']}; " + " ".join(f"{name} {value:.4f}" for name, value in floors.items()))
    measured = {"protocol": first["protocol"], "hardware": hardware("cpu"), "versions": versions()}
    write_json(args.output, {**measured, "rows": rows, "floors": floors})


def row(index: str, runs: list[dict[str, Any]], valid: list[float]) -> dict[str, Any]:
    """What the runs of one kind of index came to."""
    results = [run["results"]["ulmrec"] for run in runs]
    return {
        "user_index": index,
        "valid_ndcg@10": valid,
        "test_ndcg@10": [result["ndcg@10"] for result in results],
        "test_hit_rate@10": [result["hit_rate@10"] for result in results],
        "first_interval": results[0]["intervals"]["ndcg@10"],
        "training_seconds": [run["seconds"].get("training", 0.0) for run in runs],
    }


def format_row(one: dict[str, Any]) -> str:
    """Means over seeds, and the seeds."""
    means = {name: np.mean(one[name]) for name in ("valid_ndcg@10", "test_ndcg@10", "test_hit_rate@10")}
    seeds = " ".join(f"{value:.4f}" for value in one["test_ndcg@10"])
    return " ".join(
        [f"{one['user_index']:<14}", *(f"{name} {value:.4f}" for name, value in means.items()), f"({seeds})"]
    )


if __name__ == "__main__":
    main()
