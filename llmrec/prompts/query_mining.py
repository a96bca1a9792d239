"""Item mining: which items a query finds only with its keywords (LREM, arXiv 2510.14321)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from llmrec.prompts.keywords import join_keywords

#: Texts and k -> integer array of shape (num_texts, k) of item rows, best first; -1 is an empty place.
Search = Callable[[Sequence[str], int], np.ndarray]
#: Texts and the rows found for each -> for each text, whether each of these rows is relevant to it.
Relevance = Callable[[Sequence[str], Sequence[Sequence[int]]], Sequence[Sequence[bool]]]


class Mined(NamedTuple):
    """What mining left.

    Attributes:
        rows: for each query, the rows of its items, best first; [] where the query is to be dropped.
        counts: ``queries``, ``kept``, ``dropped`` and ``items`` (kept pairs).
    """

    rows: list[list[int]]
    counts: dict[str, int]


def mine_items(
    queries: Sequence[str], keywords: Sequence[Sequence[str]], search: Search, relevant: Relevance, k: int
) -> Mined:
    """Search with each query and with "query (keywords)": keep the relevant items that only the second search finds.

    Args:
        queries: the texts.
        keywords: of each; a query without keywords finds nothing more, so it is dropped.
        search: over the catalogue.
        relevant: judges what was found.
        k: items of a search.

    Raises:
        ValueError: if queries and keywords differ in number, or the scorer answers for other items than asked.
    """
    if len(queries) != len(keywords):
        raise ValueError(f"{len(queries)} queries have {len(keywords)} lists of keywords; they must be as many.")
    alone = search(queries, k)
    together = search([with_keywords(*pair) for pair in zip(queries, keywords, strict=True)], k)
    found = []
    for row, rows in enumerate(together):
        before = set(alone[row].tolist()) | {-1}
        found.append([item for item in dict.fromkeys(rows.tolist()) if item not in before])
    judged = relevant(queries, found)
    if [len(answers) for answers in judged] != [len(rows) for rows in found]:
        raise ValueError("The relevance scorer must give one answer for each item it is asked about.")
    kept = [
        [item for item, good in zip(rows, answers, strict=True) if good]
        for rows, answers in zip(found, judged, strict=True)
    ]
    left = sum(bool(rows) for rows in kept)
    counts = {"queries": len(kept), "kept": left, "dropped": len(kept) - left, "items": sum(map(len, kept))}
    return Mined(kept, counts)


def with_keywords(query: str, keywords: Sequence[str]) -> str:
    """What the second search looks for; the query itself where there are no keywords."""
    return f"{query} ({join_keywords(keywords)})" if keywords else query


def relevant_targets(targets: Sequence[Sequence[int]]) -> Relevance:
    """A scorer that trusts what each query was made for: rows of its items, in the order of the queries."""

    def judge(queries: Sequence[str], rows: Sequence[Sequence[int]]) -> list[list[bool]]:  # noqa: ARG001
        return [[item in set(wanted) for item in found] for wanted, found in zip(targets, rows, strict=True)]

    return judge


def relevant_by_cosine(embed: Callable[[Sequence[str]], np.ndarray], items: np.ndarray, threshold: float) -> Relevance:
    """A scorer by a text encoder: relevant where the cosine of query and item is at least ``threshold``.

    Args:
        embed: texts -> float array of shape (num_texts, dim).
        items: embeddings of the catalogue, shape (num_items, dim).
        threshold: between -1 and 1.

    Raises:
        ValueError: if the threshold is no cosine.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; a cosine lies between -1 and 1.")
    directions = _unit(items)

    def judge(queries: Sequence[str], rows: Sequence[Sequence[int]]) -> list[list[bool]]:
        embedded = _unit(embed(queries))
        return [
            (directions[list(found)] @ query >= threshold).tolist() for query, found in zip(embedded, rows, strict=True)
        ]

    return judge


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
