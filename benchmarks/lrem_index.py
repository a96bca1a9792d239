"""A catalogue of 100,000 items embedded by an LREM and indexed: items a second, memory, what the fast index finds.

    python -m benchmarks.lrem_index --checkpoint outputs/lrem --queries_dir data/ml-100k_queries

The items are the checkpoint's own and, beside them, mixtures: the title of one with the categories of another. Queries
are those of the test.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.decoding_measure import hardware, release_freed_memory, resident_bytes, versions
from llmrec.atomic import write_json
from llmrec.dataset import QueryDataset
from llmrec.hub import load_checkpoint
from llmrec.models.lrem import LremPrompts, LremSearcher
from llmrec.models.lrem.catalog_embeddings import embed_catalog
from llmrec.vector_index import IndexKind, VectorIndex

K = 100
KINDS: tuple[IndexKind, ...] = ("exact", "approximate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="outputs/lrem", help="of recipes/lrem.py")
    parser.add_argument("--queries_dir", default="data/ml-100k_queries", help="that it was trained on")
    parser.add_argument("--num_items", type=int, default=100_000)
    parser.add_argument("--num_queries", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/results/lrem_index.json")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    prompts = LremPrompts.from_options(checkpoint.tokenizer, checkpoint.prompts)
    lines = mixtures(prompts.lines(checkpoint.catalog.items), args.num_items)
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        vectors = embed_catalog(checkpoint.model, prompts, lines, Path(folder), args.batch_size)
    seconds = time.perf_counter() - start
    print(f"{len(lines):,} items embedded in {seconds:.0f} s: {len(lines) / seconds:.0f} items/s", flush=True)
    queries = QueryDataset.load(args.queries_dir).queries("test")["query"].to_pylist()[: args.num_queries]
    searcher = LremSearcher(prompts, lines, args.batch_size)
    asked = searcher.embed_queries(checkpoint.model, queries, searcher.write_thoughts(checkpoint.model, queries))
    results = measured(vectors, asked, args.repeats)
    embedded = {"items_per_second": len(lines) / seconds, "embeddings_gigabytes": vectors.nbytes / 1e9}
    settings = {"settings": vars(args), "hardware": hardware("cpu"), "versions": versions()}
    write_json(args.output, {**settings, "embedding": embedded, "indices": results})


def mixtures(lines: list[str], count: int) -> list[str]:
    """``count`` different lines: all of ``lines``, then titles of some with what stands behind others' titles."""
    parts = [line.partition(" | ") for line in lines]
    generator = np.random.default_rng(0)
    found = dict.fromkeys(lines)
    while len(found) < count:
        title, rest = generator.integers(len(lines), size=2)
        other = generator.integers(1900, 2030)
        found[f"{parts[title][0]} {other} | {parts[rest][2]}"] = None
    return list(found)[:count]


def measured(vectors: np.ndarray, queries: np.ndarray, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds, memory and recall of both indices."""
    results: dict[str, dict[str, Any]] = {}
    exact: np.ndarray | None = None
    for kind in KINDS:
        release_freed_memory()
        before, start = resident_bytes(), time.perf_counter()
        index = VectorIndex(vectors, kind)
        built = time.perf_counter() - start
        memory = (resident_bytes() - before) / 1e9
        seconds = []
        for _ in range(repeats + 1):  # the first round warms up
            start = time.perf_counter()
            found = index.search(queries, K)[0]
            seconds.append(time.perf_counter() - start)
        exact = found if exact is None else exact
        same = [len({*mine} & {*true}) / K for mine, true in zip(found.tolist(), exact.tolist(), strict=True)]
        results[kind] = {
            "build_seconds": built,
            "resident_gigabytes": memory,
            "queries_per_second": len(queries) / statistics.median(seconds[1:]),
            f"recall@{K}_of_exact": float(np.mean(same)),
        }
        print(f"{kind:12}", *(f"{key} {value:.3f} " for key, value in results[kind].items()), flush=True)
    return results


if __name__ == "__main__":
    main()
