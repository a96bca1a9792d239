"""A catalogue of a million items searched by SETRec: every product, faiss' exact index, faiss' approximate one.

    python -m benchmarks.setrec_search --checkpoint outputs/setrec --dataset_dir data/ml-100k_temporal

The items are the checkpoint's own and, beside them, variants: embeddings of a random own item moved by noise. Histories
are those of the test users, lists hold 20 items that are not in the history. All kinds answer in one process, one after
the other; seconds are medians over the rounds.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.decoding_measure import hardware, release_freed_memory, resident_bytes, versions
from llmrec.atomic import write_json
from llmrec.dataset import RecDataset
from llmrec.hub import load_checkpoint
from llmrec.models.setrec import ItemFeatures
from llmrec.models.setrec.search import SetSearch
from llmrec.vector_index import IndexKind

K = 20
KINDS: dict[str, IndexKind | None] = {"product": None, "exact index": "exact", "approximate index": "approximate"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="outputs/setrec", help="of recipes/setrec.py")
    parser.add_argument("--dataset_dir", default="data/ml-100k_temporal", help="that it was trained on")
    parser.add_argument("--num_items", type=int, default=1_000_000)
    parser.add_argument("--noise", type=float, default=0.3, help="length of the noise against that of an embedding")
    parser.add_argument("--num_users", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/results/setrec_search.json")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    rows = RecDataset.load(args.dataset_dir).test.slice(0, args.num_users)
    max_history = checkpoint.prompts["max_history"]
    histories = [checkpoint.catalog.rows_of(history[-max_history:]) for history in rows["history"].to_pylist()]
    features = enlarged(checkpoint.model.items, args.num_items, args.noise)
    model = checkpoint.model.eval()
    results: dict[str, dict[str, Any]] = {}
    lists: dict[str, list[set[int]]] = {}
    for name, kind in KINDS.items():
        release_freed_memory()
        before = resident_bytes()
        start = time.perf_counter()
        search = SetSearch(model, features, kind)
        built = time.perf_counter() - start
        release_freed_memory()
        memory = (resident_bytes() - before) / 1e9
        seconds = []
        for _ in range(args.repeats + 1):  # the first round warms up
            start = time.perf_counter()
            answers = [ask(search, batch, model.config.beta) for batch in batches(histories, args.batch_size)]
            seconds.append(time.perf_counter() - start)
        lists[name] = [set(row) for answer in answers for row in answer]
        found = [len(mine & true) / K for mine, true in zip(lists[name], lists["product"], strict=True)]
        results[name] = {
            "build_seconds": built,
            "resident_gigabytes": memory,
            "users_per_second": len(histories) / statistics.median(seconds[1:]),
            f"recall@{K}_of_exact": float(np.mean(found)),
        }
        print(name.ljust(20), *(f"{key} {value:.3f} " for key, value in results[name].items()), flush=True)
        del search
    settings = {"settings": vars(args), "hardware": hardware("cpu"), "versions": versions()}
    write_json(args.output, {**settings, "results": results})


def enlarged(own: ItemFeatures, num_items: int, noise: float) -> ItemFeatures:
    """``own``, and as many variants of its items as are missing."""
    generator = torch.Generator().manual_seed(0)
    models = torch.randint(len(own), (num_items - len(own),), generator=generator)

    def moved(embeddings: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(len(models), embeddings.shape[1], generator=generator)
        drawn = functional.normalize(drawn, dim=1) * embeddings[models].norm(dim=1, keepdim=True)
        return torch.cat([embeddings, embeddings[models] + noise * drawn])

    return ItemFeatures(moved(own.cf), moved(own.text), torch.ones(num_items, dtype=torch.bool))


def batches(histories: list[list[int]], size: int) -> list[list[list[int]]]:
    return [histories[start : start + size] for start in range(0, len(histories), size)]


def ask(search: SetSearch, histories: list[list[int]], beta: float) -> list[list[int]]:
    """Lists of items that are not in the histories."""
    return search.best(histories, beta, K, histories, [None] * len(histories))[0].tolist()


if __name__ == "__main__":
    main()
