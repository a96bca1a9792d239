"""How a model that searches is validated, tested and reported, beside BM25."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState

from llmrec.atomic import write_json
from llmrec.dataset import QueryDataset
from llmrec.evaluation import SearchEvaluator, format_search
from llmrec.metrics import paired_bootstrap
from llmrec.models.lrem import LremSearcher
from llmrec.models.lrem.searcher import Thoughts
from llmrec.training.processes import gather_rows, share_rows
from llmrec.vector_index import VectorIndex

#: What stands where a thought belongs, as in the paper's Table 2.
Swap = Thoughts | Literal["random"]
#: What a checkpoint is chosen by.
VALIDATION_METRIC = "hit_rate@10"
_COMPARED = ("hit_rate@10", "ndcg@10", "recall@100")


def search_all(
    searcher: LremSearcher,
    model: Any,
    queries: list[str],
    k: int,
    thoughts: Swap = "model",
    embeddings: np.ndarray | None = None,
) -> np.ndarray:
    """The lists of all queries, on every process; each of them searches its share.

    Args:
        searcher: over the catalogue.
        model: in evaluation mode.
        queries: texts.
        k: list length.
        thoughts: what stands before the embedding token; ``random`` is the thought of another query.
        embeddings: of the catalogue by this model, where they are there already.

    Returns:
        Item indices: int64 of shape (num_queries, k), -1 for empty places.
    """
    rows = share_rows([len(searcher.prompts.query(query)) for query in queries], searcher.batch_size)
    index = VectorIndex(searcher.embed_items(model) if embeddings is None else embeddings)
    asked, others = [queries[row] for row in rows], None
    if thoughts == "random":
        shift = 1 + int(np.random.default_rng(0).integers(max(1, len(queries) - 1)))
        others, thoughts = [queries[(row + shift) % len(queries)] for row in rows], "model"
    found = searcher.search(model, asked, k, thoughts, index, others)
    return gather_rows(rows, found, len(queries))


def search_evaluation(
    dataset: QueryDataset, searcher: LremSearcher, max_queries: int | None, seed: int
) -> Callable[[Any], dict[str, float]]:
    """Validation by searching the whole catalogue: a model in, metrics out.

    Args:
        dataset: whose validation queries are searched.
        searcher: over its items.
        max_queries: drawn from them; None takes all.
        seed: of the draw.
    """
    evaluator = SearchEvaluator(dataset, "valid", ks=(10,))
    count = len(evaluator.queries)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[: max_queries or count])
    queries = [evaluator.queries[row] for row in chosen]

    def evaluate(model: Any) -> dict[str, float]:
        ranked = np.full((count, 10), -1, dtype=np.int64)
        ranked[chosen] = search_all(searcher, model, queries, 10)
        per_query = evaluator.per_query(ranked)
        return {name: float(per_query[name][chosen].mean()) for name in (VALIDATION_METRIC, "ndcg@10")}

    return evaluate


def search_report(
    folder: Path,
    evaluator: SearchEvaluator,
    lists: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    seconds: Mapping[str, float],
    compared: tuple[str, str] | None = None,
) -> tuple[dict[str, Any], str]:
    """Print the table of several systems, and write metrics.json and, query by query, queries.json.

    Args:
        folder: of the run.
        evaluator: of the test queries.
        lists: name of the system -> its lists.
        options: what else defines the numbers, for the protocol.
        seconds: of each stage.
        compared: two systems whose difference is tested, the earlier one first.

    Returns:
        What is in metrics.json, and the table.
    """
    reports = {name: evaluator.report(ranked) for name, ranked in lists.items()}
    table = format_search(reports)
    content: dict[str, Any] = {
        "protocol": {**evaluator.protocol, **options},
        "split_fingerprint": evaluator.protocol["fingerprint"],
        "results": {name: report["all"] for name, report in reports.items()},
        "by_kind": {name: {kind: report[kind] for kind in report if kind != "all"} for name, report in reports.items()},
        "seconds": dict(seconds),
    }
    if compared is not None:
        content["difference"] = _differences(evaluator, lists, *compared)
        table += f"\n\n{_difference_table(*compared, content['difference'])}"
    if PartialState().is_main_process:
        print(f"\n{table}")
        write_json(folder / "queries.json", _by_query(evaluator, lists))
        write_json(folder / "metrics.json", content)
    return json.loads(json.dumps(content)), table


def _by_query(evaluator: SearchEvaluator, lists: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each query with its ndcg@10 by system."""
    values = {name: evaluator.per_query(ranked)["ndcg@10"] for name, ranked in lists.items()}
    return [
        {"query": query, "kind": kind, "ndcg@10": {name: float(value[row]) for name, value in values.items()}}
        for row, (query, kind) in enumerate(zip(evaluator.queries, evaluator.kinds, strict=True))
    ]


def _differences(
    evaluator: SearchEvaluator, lists: Mapping[str, np.ndarray], before: str, after: str
) -> dict[str, dict[str, Any]]:
    """Metric -> difference of the means over all queries, with its paired 95 % bootstrap interval."""
    earlier, later = evaluator.per_query(lists[before]), evaluator.per_query(lists[after])
    differences = {}
    for metric in (name for name in _COMPARED if name in earlier):
        paired = paired_bootstrap(later[metric], earlier[metric], evaluator.seed)
        differences[metric] = {"difference": paired.difference, "interval": [paired.low, paired.high]}
    return differences


def _difference_table(before: str, after: str, differences: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{after} less {before}, with 95 % intervals over queries:"]
    for metric, values in differences.items():
        low, high = values["interval"]
        lines.append(f"  {metric:12}  {values['difference']:+.4f}  ({low:+.4f} to {high:+.4f})")
    return "\n".join(lines)
