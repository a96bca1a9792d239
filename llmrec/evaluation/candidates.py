"""A retriever's candidates, ranked by a language model that answers with a letter; and what the paper makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel

from llmrec.decoding.letters import LetterLogits
from llmrec.evaluation.recommender import Ranks
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.metrics import rank_metrics
from llmrec.prompts.candidates import LETTERS, candidate_prompt, letter_token_ids
from llmrec.prompts.titles import TitleRenderer


class Retriever(Protocol):
    """Finds candidates: a floor, or any fitted recommender."""

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Item indices, best first: (num_users, k), -1 where there are no more."""
        ...


@dataclass
class ModelRetriever:
    """A trained recommender as a retriever.

    Args:
        recommender: asks the model.
        model: trained, and not trained any further.
    """

    recommender: Ranks
    model: PreTrainedModel

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
    ) -> np.ndarray:
        """As ``Retriever`` says."""
        return self.recommender.recommend(self.model, histories, k, exclude, candidates, progress=False)


@dataclass
class CandidateRecommender:
    """A retriever's lists in the order of their letters' logits: one forward pass for a user (LlamaRec, 2311.02089).

    Args:
        renderer: of titles.
        retriever: finds the candidates.
        max_history: items of the history shown to the model, the latest ones.
        batch_size: users at a time.
        seed: of the order in which candidates get their letters.
        users: whose indices prompts name; None where they name none.
        num_candidates: of each user, at most.
    """

    renderer: TitleRenderer
    retriever: Retriever
    max_history: int
    batch_size: int
    seed: int
    users: UserIndex | None = None
    num_candidates: int = 20

    def __post_init__(self) -> None:
        self._shown: dict[tuple, np.ndarray] = {}

    @property
    def item_ids(self) -> list[str]:
        return self.renderer.catalog.item_ids

    def recommend(
        self,
        model: PreTrainedModel,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
        progress: bool = True,
        user_ids: Sequence[str] | None = None,
    ) -> np.ndarray:
        """As ``llmrec.evaluation.recommender.Ranks`` says; places beyond the candidates are empty."""
        shown = self.lettered(histories, exclude, candidates)
        ids = [None] * len(histories) if user_ids is None else user_ids
        prompts = [
            self.prompt_tokens(history, items[items >= 0], user_id)
            for history, items, user_id in zip(histories, shown, ids, strict=True)
        ]
        letters = letter_token_ids(self.renderer.vocabulary, self.num_candidates)
        logits = LetterLogits(model, letters)(prompts, self.batch_size, progress).numpy()
        order = np.argsort(np.where(shown >= 0, -logits, np.inf), axis=1, kind="stable")
        ranked = np.full((len(histories), k), -1, dtype=np.int64)
        width = min(k, self.num_candidates)
        ranked[:, :width] = np.take_along_axis(shown, order, axis=1)[:, :width]
        return ranked

    def lettered(
        self,
        histories: Sequence[Sequence[int]],
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
    ) -> np.ndarray:
        """The candidates of each user in the order of their letters: int64 (num_users, num_candidates), -1 at the end.

        The order is drawn from the seed and the user's history: the same for every model and process.
        """
        seen = [()] * len(histories) if exclude is None else [tuple(items) for items in exclude]
        of = None if candidates is None else candidates.tobytes()
        keys = [(tuple(history), items, of) for history, items in zip(histories, seen, strict=True)]
        # a retriever is fitted once: what it found for a user, it finds again
        new = [row for row, key in enumerate(keys) if key not in self._shown]
        if new:
            asked = [histories[row] for row in new], self.num_candidates, [seen[row] for row in new], candidates
            for row, found in zip(new, self.retriever.recommend(*asked), strict=True):
                items = found[found >= 0]
                lettered = np.full(self.num_candidates, -1, dtype=np.int64)
                lettered[: len(items)] = np.random.default_rng([self.seed, *histories[row]]).permutation(items)
                self._shown[keys[row]] = lettered
        return np.array([self._shown[key] for key in keys]).reshape(len(keys), self.num_candidates)

    def prompt_tokens(self, history: Sequence[int], candidates: Sequence[int], user_id: str | None = None) -> list[int]:
        """Token ids of one user's prompt."""
        codes = () if self.users is None else self.users.codes_of(user_id, history)
        ids = self.item_ids
        shown = [ids[row] for row in history[-self.max_history :]], [ids[row] for row in candidates]
        return self.renderer(candidate_prompt(codes, *shown))


def candidate_report(ranked: np.ndarray, shown: np.ndarray, targets: np.ndarray, ks: Sequence[int]) -> dict[str, Any]:
    """What the paper's protocol makes of lists of candidates, and how much a letter weighs by itself.

    The paper ranks only users whose target is among the candidates, and weights their mean by the retriever's hit rate
    (arXiv 2412.05543, after LlamaRec). Since nobody else has a hit within as many places as there are candidates, that
    is the mean over all users.

    Args:
        ranked: lists, (num_users, at least max(ks)).
        shown: candidates in the order of their letters, (num_users, num_candidates), -1 for none.
        targets: (num_users, max_targets), -1 for none.
        ks: cut-offs, up to the number of candidates.

    Returns:
        ``retriever_hit_rate``; ``subset`` and ``overall``: metric -> the mean over users with a target among the
        candidates, and that mean times the hit rate; ``first_by_letter``: share of users whose first item had each
        letter; and ``position_bias``: the total variation distance of these shares from those of letters drawn at
        random, 0 (none) to 1.
    """
    reached = ((shown[:, :, None] == targets[:, None, :]) & (targets[:, None, :] >= 0)).any(axis=(1, 2))
    rate = float(reached.mean())
    subset = (
        {metric: float(values.mean()) for metric, values in rank_metrics(ranked[reached], targets[reached], ks).items()}
        if reached.any()
        else {}
    )
    first = (shown == ranked[:, :1]) & (shown >= 0)
    chance = (shown >= 0) / np.maximum((shown >= 0).sum(axis=1, keepdims=True), 1)
    shares, expected = first.mean(axis=0), chance.mean(axis=0)
    return {
        "retriever_hit_rate": rate,
        "num_subset": int(reached.sum()),
        "subset": subset,
        "overall": {metric: value * rate for metric, value in subset.items()},
        "first_by_letter": shares.tolist(),
        "position_bias": float(np.abs(shares - expected).sum() / 2),
    }


def format_candidates(report: dict[str, Any]) -> str:
    """``candidate_report`` as a few lines."""
    lines = [
        f"{report['num_subset']} users have their target among the candidates "
        f"(retriever's hit rate {report['retriever_hit_rate']:.4f}).",
        f"{'':14} {'subset':>8} {'overall':>8}",
    ]
    lines += [
        f"{metric:14} {value:8.4f} {report['overall'][metric]:8.4f}" for metric, value in report["subset"].items()
    ]
    letters = " ".join(
        f"{letter}:{share:.2f}" for letter, share in zip(LETTERS, report["first_by_letter"], strict=False)
    )
    return "\n".join([*lines, f"Position bias {report['position_bias']:.3f}; first by letter: {letters}"])
