"""Ranking metrics over items, and bootstrap intervals over users: arrays in, numbers out.

Conventions of every function here:

- ``ranked`` is an integer array of shape (num_users, list_length) of item indices, best first. -1 is an empty slot. An
  answer outside the catalogue is any other number outside ``0 .. num_items - 1`` (write -2).
- ``targets`` is an integer array of shape (num_users, max_targets) of item indices, in any order; -1 is padding.
- an item that a list repeats counts once, at its first place; its later places are wasted slots.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

KS = (1, 5, 10, 20)


def rank_metrics(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """Metrics of every user at every cut-off.

    Hits are the targets among the first k places. ``hit_rate`` is 1 where there is one, ``recall`` the share of the
    targets that are hits, ``mrr`` 1 / (place of the first hit) or 0 without one, and ``ndcg`` the sum of
    1 / log2(1 + place) over the hits, divided by that sum for a list that starts with all the targets (Jarvelin and
    Kekalainen 2002, with gains of 0 and 1). With one target per user, recall equals hit_rate.

    Args:
        ranked: shape (num_users, list_length), with list_length of at least ``max(ks)``.
        targets: shape (num_users, max_targets), at least one target in each row.
        ks: cut-offs.

    Returns:
        ``{"hit_rate@10": float64 array of shape (num_users,), ...}``: hit_rate, recall, ndcg and mrr at each of ``ks``.

    Raises:
        ValueError: if the shapes do not fit together, a list is too short for a cut-off, or a user has no target.
    """
    ranked, targets = _checked(ranked, targets, ks)
    real_targets = (targets >= 0) & ~_repeated(targets)
    num_targets = real_targets.sum(axis=1)
    if (num_targets == 0).any():
        raise ValueError(f"Row {int((num_targets == 0).argmax())} of targets holds no target: leave such users out.")
    hits = np.zeros(ranked.shape, dtype=bool)
    for column in range(targets.shape[1]):
        hits |= real_targets[:, [column]] & (ranked == targets[:, [column]])
    hits &= ~_repeated(ranked)
    discounts = 1 / np.log2(np.arange(2, max(ks) + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    metrics: dict[str, np.ndarray] = {}
    for k in ks:
        top = hits[:, :k]
        any_hit = np.asarray(top.any(axis=1))
        metrics[f"hit_rate@{k}"] = any_hit.astype(np.float64)
        metrics[f"recall@{k}"] = top.sum(axis=1) / num_targets
        metrics[f"ndcg@{k}"] = top @ discounts[:k] / ideal[np.minimum(num_targets, k)]
        metrics[f"mrr@{k}"] = any_hit / (1 + top.argmax(axis=1))
    return metrics


def graded_metrics(
    ranked: np.ndarray, judged: np.ndarray, grades: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, np.ndarray]:
    """Metrics of every query whose items are graded rather than right or wrong.

    ``precision`` is the share of the first k places that hold a relevant item (a grade above 0), ``judged`` the share
    that hold an item with a grade at all: where it is low, unjudged items may hide good ones. ``ndcg`` sums
    (2^grade - 1) / log2(1 + place), divided by that sum for the judged items in the order of their grades (Burges et
    al. 2005); an item without a grade gains nothing. Empty places of a short list count as misses.

    Args:
        ranked: shape (num_queries, list_length), with list_length of at least ``max(ks)``.
        judged: shape (num_queries, max_judged) of item indices, each once in its row; -1 is padding.
        grades: integers of the shape of ``judged``, 0 or more.
        ks: cut-offs.

    Returns:
        ``{"ndcg@10": float64 array of shape (num_queries,), ...}``: precision, judged and ndcg at each of ``ks``.

    Raises:
        ValueError: if the shapes do not fit together, a list is too short, or a query has no relevant item.
    """
    ranked, judged = _checked(ranked, judged, ks)
    grades = np.asarray(grades)
    if grades.shape != judged.shape:
        raise ValueError(f"grades has shape {grades.shape} and judged {judged.shape}: each judged item needs a grade.")
    gains = np.where(judged >= 0, 2.0**grades - 1, 0.0)
    if (gains.sum(axis=1) == 0).any():
        row = int((gains.sum(axis=1) == 0).argmax())
        raise ValueError(f"Row {row} of grades holds no relevant item: leave such queries out.")
    found, known = np.zeros(ranked.shape), np.zeros(ranked.shape, dtype=bool)
    for column in range(judged.shape[1]):
        here = (judged[:, [column]] >= 0) & (ranked == judged[:, [column]])
        found += here * gains[:, [column]]
        known |= here
    repeated = _repeated(ranked)
    found, known = np.where(repeated, 0.0, found), known & ~repeated
    discounts = 1 / np.log2(np.arange(2, max(ks) + 2))
    best = -np.sort(-gains, axis=1)[:, : max(ks)]
    metrics: dict[str, np.ndarray] = {}
    for k in ks:
        ideal = best[:, :k] @ discounts[: min(k, best.shape[1])]
        metrics[f"precision@{k}"] = (found[:, :k] > 0).mean(axis=1)
        metrics[f"judged@{k}"] = known[:, :k].mean(axis=1)
        metrics[f"ndcg@{k}"] = found[:, :k] @ discounts[:k] / ideal
    return metrics


def coverage(ranked: np.ndarray, num_items: int, k: int) -> float:
    """Share of the catalogue's ``num_items`` items that stand among the first ``k`` places of at least one list."""
    top = np.asarray(ranked)[:, :k]
    return len(np.unique(top[(top >= 0) & (top < num_items)])) / num_items


def valid_rate(ranked: np.ndarray, num_items: int) -> float:
    """Share of the returned slots that hold a catalogue item which the same list has not named before.

    Empty slots (-1) are not returned, so they count on neither side: a short list of good items is valid, and what it
    misses shows in the hit rate. Lists that hold nothing at all have a valid rate of 0.
    """
    ranked = np.asarray(ranked)
    returned = ranked != -1
    valid = (ranked >= 0) & (ranked < num_items) & ~_repeated(ranked)
    return float(valid.sum() / max(returned.sum(), 1))


def bootstrap_interval(
    values: np.ndarray, seed: int, num_samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, shape (num_users,), resampling users.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    return bootstrap_intervals({"values": values}, seed, num_samples, level)["values"]


def bootstrap_intervals(
    per_user: Mapping[str, np.ndarray], seed: int, num_samples: int = 1000, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """``bootstrap_interval`` of several metrics of the same users, over the same resamples."""
    means = _resampled_means(np.column_stack(list(per_user.values())), seed, num_samples)
    low, high = _percentiles(means, level)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(per_user)}


class PairedDifference(NamedTuple):
    """Mean of a - b over users, its bootstrap interval, and the two-sided p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, seed: int, num_samples: int = 1000, level: float = 0.95
) -> PairedDifference:
    """Compare two recommenders on the same users, resampling users.

    Args:
        a, b: one metric of the same users in the same order, both of shape (num_users,).
        seed, num_samples, level: of the bootstrap.

    Raises:
        ValueError: if ``a`` and ``b`` differ in shape.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"A paired comparison needs the same users on both sides, got shapes {a.shape} and {b.shape}.")
    means = _resampled_means((a - b)[:, None], seed, num_samples)
    low, high = _percentiles(means, level)
    # the + 1: the observed sample is one of the possible ones, so p is never 0
    one_sided = (1 + min((means <= 0).sum(), (means >= 0).sum())) / (1 + num_samples)
    return PairedDifference(float((a - b).mean()), float(low[0]), float(high[0]), float(min(1.0, 2 * one_sided)))


def _checked(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    ranked, targets = np.asarray(ranked), np.asarray(targets)
    if ranked.ndim != 2 or targets.ndim != 2 or len(ranked) != len(targets):
        raise ValueError(
            f"ranked has shape {ranked.shape} and targets {targets.shape}; needed are (num_users, list_length) and "
            "(num_users, max_targets) over the same users."
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; it needs at least one cut-off, each of at least 1.")
    if ranked.shape[1] < max(ks):
        raise ValueError(
            f"ranked holds {ranked.shape[1]} places, too few for a cut-off of {max(ks)}: recommend more items, pass "
            "smaller ks, or pad with -1 where a list really is that short."
        )
    return ranked, targets


def _repeated(rows: np.ndarray) -> np.ndarray:
    """True where a row has the same value further left; shape of ``rows``."""
    order = np.argsort(rows, axis=1, kind="stable")
    in_order = np.take_along_axis(rows, order, axis=1)
    repeated_in_order = np.zeros(rows.shape, dtype=bool)
    repeated_in_order[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    repeated = np.empty_like(repeated_in_order)
    np.put_along_axis(repeated, order, repeated_in_order, axis=1)
    return repeated


def _resampled_means(values: np.ndarray, seed: int, num_samples: int) -> np.ndarray:
    """Means of ``values``, shape (num_users, num_metrics), over resampled users; shape (num_samples, num_metrics)."""
    num_users = len(values)
    if num_users == 0:
        raise ValueError("A bootstrap over users needs at least one user.")
    generator = np.random.default_rng(seed)
    means = np.empty((num_samples, values.shape[1]))
    for sample in range(num_samples):
        # how often each user is drawn, rather than the drawn rows: one product serves every metric
        draws = np.bincount(generator.integers(num_users, size=num_users), minlength=num_users)
        means[sample] = draws @ values / num_users
    return means


def _percentiles(means: np.ndarray, level: float) -> np.ndarray:
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
