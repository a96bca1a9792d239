"""The evaluator: what every recommender is asked, and how its lists are scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from llmrec import metrics
from llmrec.baselines import ItemKNN, Popularity
from llmrec.schema import DataError

if TYPE_CHECKING:  # the dataset room brings Ibis, which scoring lists does not need
    from llmrec.dataset import RecDataset

#: Items that are evaluated on, and recommended: all, those with a training interaction, those without.
ItemGroup = Literal["all", "warm", "cold"]

#: The most popular fifth of the catalogue is the head, the rest the tail: the field's usual Pareto split.
HEAD_SHARE = 0.2


@dataclass(frozen=True)
class EvaluationResult:
    """How one recommender did.

    Args:
        name: row name in tables and key in metrics.json.
        metrics: means over users (``ndcg@10``), with ``coverage@10`` and ``valid_rate``.
        intervals: 95 % bootstrap intervals over users of the means, under the same names.
        per_user: metric of each user, arrays of shape (num_users,), in the evaluator's order of users.
        buckets: ``head`` and ``tail``: means over the users who have a target there, and their ``num_users``.
    """

    name: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_user: dict[str, np.ndarray]
    buckets: dict[str, dict[str, float]]


class Evaluator:
    """Asks for lists over the full catalogue and scores them by item.

    Args:
        dataset: what ``prepare_dataset`` made.
        item_ids: the catalogue's item ids in order (``catalog.item_ids``); positions are the item indices used here.
        split: which targets to find.
        exclude_seen: whether items that a user had before the target may not be recommended. Where they may not, they
            are taken out of any list that holds them, so no recommender profits from breaking the rule.
        ks: cut-offs of the metrics; lists must hold ``max(ks)`` places.
        refit: whether the model was trained with the validation targets too; floors and item popularity follow.
        num_users: evaluate a random sample of this many users, drawn with ``seed``; all of them by default.
        seed: of the sample and the bootstrap.
        items: ``warm`` or ``cold`` keeps to the items with, or without, a training interaction: other targets do not
            count, users without a target are left out, and other items are taken out of any list.

    Attributes:
        user_ids: the users in order: row i of every array and entry i of every list belongs to ``user_ids[i]``.
        histories: item indices of each user, oldest first.
        seen: item indices of each user that ``exclude_seen`` rules out; empty lists where it is off.
        targets: int64 array of shape (num_users, max_targets), padded with -1.
        candidates: bool array of shape (num_items,): the items of the group; None for all.
        num_items: catalogue size.
        protocol: what defines the numbers, for metrics.json and tables. Add what only the caller knows
            (``{**evaluator.protocol, "tuning": "lora"}``).

    Raises:
        ValueError: if ``refit`` meets the validation split, whose targets would then be training data.
        DataError: if the dataset names an item that the catalogue lacks, or the split has no users with a target in the
            group.
    """

    def __init__(
        self,
        dataset: "RecDataset",
        item_ids: Sequence[str],
        split: Literal["valid", "test"] = "test",
        exclude_seen: bool = True,
        ks: Sequence[int] = metrics.KS,
        refit: bool = False,
        num_users: int | None = None,
        seed: int = 0,
        items: ItemGroup = "all",
    ) -> None:
        if split not in ("valid", "test"):
            raise ValueError(f"split is {split!r}; allowed are 'valid' and 'test'.")
        if refit and split == "valid":
            raise ValueError("A refit model has trained on the validation targets: evaluate it on split='test'.")
        self.ks = tuple(ks)
        self.seed = seed
        self.num_items = len(item_ids)
        self._item_index = {item_id: index for index, item_id in enumerate(item_ids)}
        self._strict_train = self._indices(dataset.train_sequences(refit=False), "the training sequences")
        self._train = self._strict_train
        if refit:
            self._train = self._indices(dataset.train_sequences(refit=True), "the training sequences")
        rows = sample_users(dataset.valid if split == "valid" else dataset.test, num_users, seed)
        if rows.num_rows == 0:
            raise DataError(f"The {split} split of {dataset.name} has no users: nothing to evaluate.")
        targets = self._indices(rows["target_item_ids"].to_pylist(), f"the {split} targets")
        self.candidates = self._group(items)
        if self.candidates is not None:
            rows, targets = _with_target_among(self.candidates, rows, targets)
            if not targets:
                raise DataError(f"No user of the {split} split of {dataset.name} has a target among the {items} items.")
        self.user_ids: list[str] = rows["user_id"].to_pylist()
        self.histories = self._indices(rows["history"].to_pylist(), f"the {split} histories")
        self.targets = _padded(targets)
        before = self._indices(rows["seen_item_ids"].to_pylist(), f"the seen items of {split}")
        self.seen: list[list[int]] = before if exclude_seen else [[] for _ in before]
        self._head = _head_items(self._train, self.num_items)
        self.protocol: dict[str, Any] = {
            "dataset": dataset.name,
            "split_fingerprint": dataset.fingerprint,
            "data": dataset.protocol,
            "split": split,
            "exclude_seen": exclude_seen,
            "max_history": dataset.protocol["max_history"],
            "refit": refit,
            "items": items,
            "num_items": self.num_items if self.candidates is None else int(self.candidates.sum()),
            "num_users": len(self.user_ids),
            "targets_seen_before": _share_seen(self.targets, before),
            "head": f"the most popular {HEAD_SHARE:.0%} of items by training interactions",
            "seed": seed,
        }

    def evaluate(self, name: str, ranked: np.ndarray) -> EvaluationResult:
        """Score lists.

        Args:
            name: of the recommender.
            ranked: integer array of shape (num_users, at least ``max(ks)``) of item indices, best first; -1 is an empty
                slot, -2 an answer outside the catalogue.

        Raises:
            ValueError: if ``ranked`` has another number of users or too few places.
        """
        ranked = np.asarray(ranked)
        if ranked.ndim != 2 or len(ranked) != len(self.user_ids):
            raise ValueError(
                f"ranked of {name!r} has shape {ranked.shape}; needed is one row for each of the "
                f"{len(self.user_ids)} users, in the order of evaluator.user_ids."
            )
        allowed = _without(ranked, self.seen, self.candidates)
        per_user = metrics.rank_metrics(allowed, self.targets, self.ks)
        means = {metric: float(values.mean()) for metric, values in per_user.items()}
        means |= {f"coverage@{k}": metrics.coverage(allowed, self.num_items, k) for k in self.ks}
        means["valid_rate"] = metrics.valid_rate(ranked, self.num_items)
        intervals = metrics.bootstrap_intervals(per_user, self.seed)
        return EvaluationResult(name, means, intervals, per_user, self._buckets(allowed))

    def floors(self) -> list[EvaluationResult]:
        """Popularity and item-kNN on the same users and rules.

        ``item_knn`` never trains on the validation targets, so its number stays the same reference for every run on a
        split. Where the model was refit, ``item_knn_refit`` is added: the same floor with the model's training data.
        """
        recommenders: list[tuple[str, Popularity | ItemKNN, list[list[int]]]] = [
            ("popularity", Popularity(), self._train),
            ("item_knn", ItemKNN(), self._strict_train),
        ]
        if self.protocol["refit"]:
            recommenders.append(("item_knn_refit", ItemKNN(), self._train))
        results = []
        for name, recommender, sequences in recommenders:
            recommender.fit(sequences, self.num_items)
            ranked = recommender.recommend(self.histories, max(self.ks), self.seen, self.candidates)
            results.append(self.evaluate(name, ranked))
        return results

    def _group(self, items: ItemGroup) -> np.ndarray | None:
        if items not in ("all", "warm", "cold"):
            raise ValueError(f"items is {items!r}; allowed are 'all', 'warm' and 'cold'.")
        if items == "all":
            return None
        warm = np.zeros(self.num_items, dtype=bool)
        warm[[item for sequence in self._train for item in sequence]] = True
        return warm if items == "warm" else ~warm

    def _buckets(self, ranked: np.ndarray) -> dict[str, dict[str, float]]:
        buckets = {}
        real = self.targets >= 0
        for name, members in (("head", real & self._head[self.targets]), ("tail", real & ~self._head[self.targets])):
            users = members.any(axis=1)
            targets = np.where(members, self.targets, -1)[users]
            per_user = metrics.rank_metrics(ranked[users], targets, self.ks) if users.any() else {}
            buckets[name] = {metric: float(values.mean()) for metric, values in per_user.items()}
            buckets[name]["num_users"] = int(users.sum())
        return buckets

    def _indices(self, sequences: Sequence[Sequence[str]], place: str) -> list[list[int]]:
        try:
            return [[self._item_index[item_id] for item_id in sequence] for sequence in sequences]
        except KeyError as error:
            raise DataError(
                f"Item {error.args[0]!r} in {place} is not among the {self.num_items} items of the catalog: "
                "make the catalog from this dataset folder with data_prep/semantic_ids.py."
            ) from None


def sample_users(rows: pa.Table, num_users: int | None, seed: int) -> pa.Table:
    """``num_users`` rows of a split drawn from ``seed``, in their order; all if there are no more, or for None."""
    if num_users is None or num_users >= rows.num_rows:
        return rows
    chosen = np.random.default_rng(seed).choice(rows.num_rows, size=num_users, replace=False)
    return rows.take(np.sort(chosen))


def _with_target_among(
    candidates: np.ndarray, rows: pa.Table, targets: Sequence[Sequence[int]]
) -> tuple[pa.Table, list[list[int]]]:
    """The users who have a target among the candidates, and these targets."""
    kept = [[item for item in items if candidates[item]] for items in targets]
    users = [row for row, items in enumerate(kept) if items]
    return rows.take(pa.array(users, pa.int64())), [kept[row] for row in users]


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.full((len(rows), max(len(row) for row in rows)), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _head_items(train_sequences: Sequence[Sequence[int]], num_items: int) -> np.ndarray:
    """True for the items of the head, shape (num_items,)."""
    counts = Popularity().fit(train_sequences, num_items).counts
    head = np.zeros(num_items, dtype=bool)
    head[np.argsort(-counts, kind="stable")[: int(np.ceil(HEAD_SHARE * num_items))]] = True
    return head


def _share_seen(targets: np.ndarray, seen: Sequence[Sequence[int]]) -> float:
    """Share of targets that their user had before: out of reach where seen items are excluded."""
    repeats = sum(len(set(row.tolist()) & set(items)) for row, items in zip(targets, seen, strict=True))
    return repeats / int((targets >= 0).sum())


def _without(ranked: np.ndarray, excluded: Sequence[Sequence[int]], candidates: np.ndarray | None = None) -> np.ndarray:
    """``ranked`` with excluded items and those that are no candidates taken out, the rest moved up, -1 at the end."""
    kept_rows = np.full_like(ranked, -1)
    for row, (items, banned) in enumerate(zip(ranked, excluded, strict=True)):
        kept = items[~np.isin(items, banned)] if banned else items
        if candidates is not None:
            # what is no item of the catalogue stays where it is: it wasted its place
            kept = kept[(kept < 0) | (kept >= len(candidates)) | candidates[np.clip(kept, 0, len(candidates) - 1)]]
        kept_rows[row, : len(kept)] = kept
    return kept_rows
