"""New items: what SETRec finds of items that it never saw in training, against text alone and collaboration alone.

    python -m benchmarks.setrec_cold --dataset_dir data/ml-100k

Holds a tenth of the items out of every history. What is left is trained on, but for each user's last item, which
validates; the user's held-out items are what is to be found, among the held-out items, from the history without them.
Contenders: SETRec, under the beta that validation chose and under 1, by text alone; SETRec without semantic tokens,
whose CF embeddings of new items are those of their neighbours by text, or as they were drawn; and text-kNN, the cosine
to the mean text embedding of the last ten items. Popularity has nothing to count in new items: it is left with the
order of the catalogue.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.decoding_measure import hardware, versions
from benchmarks.recipe_runs import run_folder, run_recipe
from llmrec.atomic import write_json
from llmrec.dataset import PreparationConfig, RawData, RecDataset, prepare_dataset
from llmrec.evaluation import EvaluationResult, Evaluator
from llmrec.hub import load_checkpoint
from llmrec.metrics import paired_bootstrap
from llmrec.models.setrec import ItemFeatures
from llmrec.models.setrec.recommender import SetRecRecommender

METRIC = "recall@10"

#: Contender -> options of the recipe.
MODELS: dict[str, list[str]] = {
    "SETRec": [],
    "SETRec, CF alone": ["--num_semantic_tokens", "0"],
    "SETRec, CF alone, as drawn": ["--num_semantic_tokens", "0", "--cold_items", "drawn"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset; its items and interactions")
    parser.add_argument("--held_out", type=float, default=0.1, help="share of the items")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training")
    parser.add_argument("--runs_dir", default="outputs/setrec_cold", help="where dataset and runs are made")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the recipe, last")
    parser.add_argument("--output", default="benchmarks/results/setrec_cold.json")
    args = parser.parse_args()
    whole = RecDataset.load(args.dataset_dir)
    args.runs_dir = str(Path(args.runs_dir) / f"{whole.name}_{whole.fingerprint}_{args.held_out}")
    dataset = open_held_out(whole, args.held_out, Path(args.runs_dir) / "dataset")
    evaluator = Evaluator(dataset, dataset.items["item_id"].to_pylist(), "test", items="cold")
    results: dict[str, list[EvaluationResult]] = {}
    for name in MODELS:
        for seed in args.seeds:
            for found, result in evaluate(args, dataset, evaluator, name, seed).items():
                results.setdefault(found, []).append(result)
    features = ItemFeatures.load(run_folder(args.runs_dir, "SETRec", args.seeds[0]))
    results["text-kNN"] = [evaluator.evaluate("text-kNN", text_knn(evaluator, features))]
    results["catalogue order"] = [evaluator.floors()[0]]
    rows = [row(name, found, results["SETRec"][0]) for name, found in results.items()]
    print(f"{dataset.name}, split {dataset.fingerprint}: {len(evaluator.user_ids)} users, ", end="")
    print(f"{evaluator.protocol['num_items']} items held out, {METRIC}")
    for one in rows:
        low, high = one["interval"]
        print(
            f"{one['name']:<27} {np.mean(one[METRIC]):.4f} ({low:.4f}-{high:.4f})  SETRec's first seed minus it: ",
            end="",
        )
        print("{:+.4f} ({:+.4f} to {:+.4f})".format(*one["setrec_minus"]))
    measured = {"protocol": evaluator.protocol, "hardware": hardware("cpu"), "versions": versions(), "rows": rows}
    write_json(args.output, measured)


def open_held_out(dataset: RecDataset, share: float, folder: Path) -> RecDataset:
    """The dataset whose test period is made of the interactions with held-out items, and validation of last items."""
    if folder.exists():
        return RecDataset.load(folder)
    events = dataset.interactions
    item_ids = dataset.items["item_id"].to_pylist()
    held = set(np.random.default_rng(0).choice(item_ids, size=round(share * len(item_ids)), replace=False).tolist())
    users, items = events["user_id"].to_pylist(), events["item_id"].to_pylist()
    last_kept = {user: place for place, (user, item) in enumerate(zip(users, items, strict=True)) if item not in held}
    period = np.array([2 if item in held else 0 for item in items])
    period[list(last_kept.values())] = 1
    # periods that the split by time then finds: order within a user stays, and the shares are exact
    times = pa.array(10**9 * (1 + period) + np.arange(len(items)), pa.int64())
    column = events.schema.get_field_index("timestamp")
    raw = RawData(
        f"{dataset.name}, {share:.0%} of the items held out",
        events.set_column(column, events.schema.field("timestamp"), times),
        dataset.items,
        f"{dataset.info['source']}; items held out with seed 0",
    )
    shares = {"valid_fraction": float((period == 1).mean()), "test_fraction": float((period == 2).mean())}
    return prepare_dataset(raw, folder, PreparationConfig(k_core=1, split="global_temporal", **shares))


def evaluate(
    args: argparse.Namespace, dataset: RecDataset, evaluator: Evaluator, name: str, seed: int
) -> dict[str, EvaluationResult]:
    """Train once, and rank the held-out items with what that left behind: under its beta, and under text alone."""
    folder = run_folder(args.runs_dir, name, seed)
    run_recipe("setrec", folder, seed, ["--dataset_dir", str(dataset.folder), *MODELS[name], *args.options])
    checkpoint = load_checkpoint(folder)
    recommender = SetRecRecommender(checkpoint.catalog.item_ids, checkpoint.prompts["max_history"])
    betas = {name: checkpoint.model.config.beta}
    if checkpoint.model.config.num_semantic_tokens:
        betas[f"{name}, beta 1"] = 1.0
    asked = evaluator.histories, max(evaluator.ks), list(betas.values()), evaluator.seen, evaluator.candidates
    ranked = recommender.recommend_each(checkpoint.model, *asked, progress=False)
    return {row: evaluator.evaluate(row, lists) for row, lists in zip(betas, ranked, strict=True)}


def text_knn(evaluator: Evaluator, features: ItemFeatures, last: int = 10) -> np.ndarray:
    """Lists by the cosine of each candidate to the mean text embedding of a history's last items."""
    text = torch.nn.functional.normalize(features.text, dim=1)
    assert evaluator.candidates is not None
    ranked = np.full((len(evaluator.histories), max(evaluator.ks)), -1)
    for row, (history, seen) in enumerate(zip(evaluator.histories, evaluator.seen, strict=True)):
        scores = text @ text[history[-last:]].mean(dim=0)
        scores[torch.from_numpy(~evaluator.candidates)] = -torch.inf
        scores[seen] = -torch.inf
        ranked[row] = scores.topk(ranked.shape[1]).indices.numpy()
    return ranked


def row(name: str, results: list[EvaluationResult], setrec: EvaluationResult) -> dict[str, Any]:
    """A line of the table, with the paired interval of the difference to SETRec's first seed."""
    paired = paired_bootstrap(setrec.per_user[METRIC], results[0].per_user[METRIC], seed=0)
    return {
        "name": name,
        METRIC: [result.metrics[METRIC] for result in results],
        "interval": list(results[0].intervals[METRIC]),
        "setrec_minus": [paired.difference, paired.low, paired.high],
        "all_metrics": json.loads(json.dumps(results[0].metrics)),
    }


if __name__ == "__main__":
    main()
