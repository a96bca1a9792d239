"""Our SASRec on MovieLens-100K, trained on whole histories and on their latest items alone, as RecTools trains its own.

    python -m benchmarks.sasrec --dataset_dir data/ml-100k

Refit (trained with the validation items), since the figure of RecTools that docs/methods/lcrec.md quotes is:
64-d, 2 blocks, length 50, 30 epochs, over the 51 latest items of each user.
"""

import argparse
import time
from dataclasses import asdict
from typing import Any

from benchmarks.decoding_measure import hardware, versions
from llmrec.atomic import write_json
from llmrec.baselines.sasrec import SASRec, SASRecConfig
from llmrec.dataset import RecDataset
from llmrec.evaluation import EvaluationResult, Evaluator, print_table
from llmrec.recipe.item_features import training_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--num_epochs", type=int, default=30)
    parser.add_argument("--output", default="benchmarks/results/sasrec_ml-100k.json")
    args = parser.parse_args()
    dataset = RecDataset.load(args.dataset_dir)
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), "test", refit=True)
    whole = training_rows(dataset, refit=True)
    results: list[EvaluationResult] = []
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        config = SASRecConfig(seed=seed, num_epochs=args.num_epochs)
        latest = [sequence[-(config.max_history + 1) :] for sequence in whole]
        for name, sequences in (("whole histories", whole), ("latest items", latest)):
            start = time.perf_counter()
            sasrec = SASRec(config).fit(sequences, evaluator.num_items)
            seconds = time.perf_counter() - start
            ranked = sasrec.recommend(evaluator.histories, max(evaluator.ks), evaluator.seen)
            results.append(evaluator.evaluate(f"{name}, seed {seed}", ranked))
            runs.append({"name": name, "config": asdict(config), "seconds": seconds, "metrics": results[-1].metrics})
    print_table([*results, *evaluator.floors()], evaluator.protocol)
    measured = {"protocol": evaluator.protocol, "hardware": hardware("cpu"), "versions": versions(), "runs": runs}
    write_json(args.output, measured)


if __name__ == "__main__":
    main()
