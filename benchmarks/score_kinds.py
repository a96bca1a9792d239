"""Which scores should beams be ranked by? Validation lists of a checkpoint under both kinds, at several widths.

    python benchmarks/score_kinds.py --checkpoint outputs/ml-100k_strict --dataset_dir data/ml-100k

`vocabulary` sums log-probabilities over the whole vocabulary, `catalog` renormalises each step over the continuations
that lead to an item (docs/decoding.md). Use a checkpoint of the strict protocol: a refit has trained on what is asked
here. Differences come with a paired bootstrap interval over the same users.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmrec.atomic import write_json
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator
from llmrec.metrics import paired_bootstrap
from llmrec.serving.checkpoint import ServedCheckpoint, open_served

KINDS = ("vocabulary", "catalog")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub name of an lcrec run with --refit false")
    parser.add_argument("--dataset_dir", required=True, help="the dataset folder it was trained on")
    parser.add_argument("--num_beams", type=int, nargs="+", default=[10, 20, 50], help="search widths")
    parser.add_argument("--output", help="JSON file to write as well")
    args = parser.parse_args()
    served, dataset = open_served(args.checkpoint), RecDataset.load(args.dataset_dir)
    config = served.checkpoint.config
    if config["refit"]:
        raise SystemExit(f"{args.checkpoint} was trained with the validation items: use a run with --refit false.")
    evaluator = Evaluator(dataset, served.catalog.item_ids, "valid", ks=(10,))
    rows = [compare(served, evaluator, num_beams) for num_beams in args.num_beams]
    for row in rows:
        print(json.dumps(row))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, {"protocol": evaluator.protocol, "config": config, "rows": rows})


def compare(served: ServedCheckpoint, evaluator: Evaluator, num_beams: int) -> dict[str, object]:
    """Validation NDCG@10 and seconds of both kinds at one width, and their paired difference."""
    row: dict[str, object] = {"num_beams": num_beams, "users": len(evaluator.user_ids)}
    per_user: dict[str, np.ndarray] = {}
    for kind in KINDS:
        start = time.perf_counter()
        alone = replace(served.recommender(num_beams, kind), fusion=None)
        ranked = alone.recommend(served.load_model(), evaluator.histories, 10, evaluator.seen, progress=False)
        row[f"seconds_{kind}"] = round(time.perf_counter() - start, 2)
        per_user[kind] = evaluator.evaluate(kind, ranked).per_user["ndcg@10"]
        row[f"ndcg@10_{kind}"] = round(float(per_user[kind].mean()), 5)
    difference = paired_bootstrap(per_user["catalog"], per_user["vocabulary"], 0)
    return {**row, "catalog_minus_vocabulary": difference._asdict()}


if __name__ == "__main__":
    main()
