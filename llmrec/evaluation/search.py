"""Search, scored: lists of items for queries whose items are graded, over all queries and by kind of query."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec import metrics
from llmrec.schema import DataError

if TYPE_CHECKING:  # as in the evaluator
    from llmrec.dataset import QueryDataset

#: The key of a report under which the numbers over all queries stand.
ALL = "all"
_TABLE_METRICS = ("hit_rate@10", "precision@10", "ndcg@10", "recall@100", "judged@10")
_KIND_METRICS = ("hit_rate@10", "ndcg@10", "recall@100")
_WITH_INTERVAL = "ndcg@10"


class SearchEvaluator:
    """Scores what a search finds among all items of the catalogue.

    Metrics of a query, at each cut-off: ``hit_rate`` is 1 where any relevant item is found, ``recall`` the share of the
    relevant items that are (LREM's paper calls this one HitRate), ``precision`` the share of the places that hold a
    relevant item, ``ndcg`` the graded one with gains of 2^grade - 1, and ``judged`` the share of the places that hold
    an item with a grade at all. An item is relevant where its grade is above 0.

    Args:
        dataset: the queries and the catalogue.
        split: whose queries.
        ks: cut-offs of the metrics; lists must hold ``max(ks)`` places.
        seed: of the bootstrap.

    Attributes:
        queries: the texts to search for: row i of every array of lists belongs to ``queries[i]``.
        kinds: the kind of each.
        protocol: what defines the numbers, for files and tables.

    Raises:
        DataError: if the split has no queries.
    """

    def __init__(
        self, dataset: "QueryDataset", split: str = "test", ks: Sequence[int] = (10, 100), seed: int = 0
    ) -> None:
        rows = dataset.queries(split)
        if rows.num_rows == 0:
            raise DataError(f"The {split} split of {dataset.name} has no queries: nothing to evaluate.")
        self.ks = tuple(ks)
        self.seed = seed
        self.queries: list[str] = rows["query"].to_pylist()
        self.kinds: list[str] = rows["kind"].to_pylist()
        index = {item_id: row for row, item_id in enumerate(dataset.items["item_id"].to_pylist())}
        judged = [[index[item_id] for item_id in item_ids] for item_ids in rows["item_ids"].to_pylist()]
        self._judged = _padded(judged, -1)
        self._grades = _padded(rows["grades"].to_pylist(), 0)
        self.protocol: dict[str, Any] = {
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "split": split,
            "num_queries": len(self.queries),
            "num_items": dataset.items.num_rows,
            "seed": seed,
        }

    def report(self, ranked: np.ndarray) -> dict[str, dict[str, Any]]:
        """Score lists.

        Args:
            ranked: integer array of shape (num_queries, at least ``max(ks)``) of item indices, best first; -1 is an
                empty place.

        Returns:
            ``{"all": {"hit_rate@10": mean, ..., "intervals": {metric: (low, high)}, "num_queries": n}, kind: ...}``,
            with 95 % bootstrap intervals over queries.

        Raises:
            ValueError: if ``ranked`` has another number of queries or too few places.
        """
        per_query = self.per_query(ranked)
        kinds = np.array(self.kinds)
        members = {ALL: np.ones(len(kinds), dtype=bool)}
        members |= {kind: kinds == kind for kind in dict.fromkeys(self.kinds)}
        return {group: self._summary(per_query, chosen) for group, chosen in members.items()}

    def per_query(self, ranked: np.ndarray) -> dict[str, np.ndarray]:
        """Metric -> float64 array of shape (num_queries,), for paired comparisons; errors as ``report``."""
        ranked = np.asarray(ranked)
        if ranked.ndim != 2 or len(ranked) != len(self.queries):
            raise ValueError(
                f"ranked has shape {ranked.shape}; needed is one row for each of the {len(self.queries)} queries, in "
                "the order of evaluator.queries."
            )
        targets = np.where(self._grades > 0, self._judged, -1)
        binary = metrics.rank_metrics(ranked, targets, self.ks)
        graded = metrics.graded_metrics(ranked, self._judged, self._grades, self.ks)
        return {f"{name}@{k}": binary[f"{name}@{k}"] for name in ("hit_rate", "recall") for k in self.ks} | graded

    def _summary(self, per_query: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
        values = {metric: numbers[chosen] for metric, numbers in per_query.items()}
        means: dict[str, Any] = {metric: float(numbers.mean()) for metric, numbers in values.items()}
        means["intervals"] = metrics.bootstrap_intervals(values, self.seed)
        means["num_queries"] = int(chosen.sum())
        return means


def format_search(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Tables of several systems on the same queries: all queries first, then hit rate, ndcg and recall by kind.

    Args:
        results: name of the system -> its report.

    Raises:
        ValueError: if there are no results.
    """
    if not results:
        raise ValueError("results is empty; give the report of one system or more.")
    first = next(iter(results.values()))
    shown = [metric for metric in _TABLE_METRICS if metric in first[ALL]]
    header = ["", *shown]
    if _WITH_INTERVAL in shown:
        header.insert(header.index(_WITH_INTERVAL) + 1, "95 % interval")
    blocks = [f"{first[ALL]['num_queries']:,} queries", _aligned([header, *_overall(results, shown)])]
    kinds = [kind for kind in first if kind != ALL]
    if len(kinds) > 1:
        for metric in (name for name in _KIND_METRICS if name in shown):
            names = [f"{kind} ({first[kind]['num_queries']:,})" for kind in kinds]
            rows = [[name, *(f"{report[kind][metric]:.4f}" for kind in kinds)] for name, report in results.items()]
            blocks.append(_aligned([[metric, *names], *rows]))
    return "\n\n".join(blocks)


def _overall(results: Mapping[str, Mapping[str, Mapping[str, Any]]], shown: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, report in results.items():
        row = [name]
        for metric in shown:
            row.append(f"{report[ALL][metric]:.4f}")
            if metric == _WITH_INTERVAL:
                low, high = report[ALL]["intervals"][metric]
                row.append(f"{low:.4f}-{high:.4f}")
        rows.append(row)
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _padded(rows: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    padded = np.full((len(rows), max(len(row) for row in rows)), padding, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
