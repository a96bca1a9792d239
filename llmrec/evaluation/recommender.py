"""Histories in, ranked items out: what every trained recommender answers, and how one of semantic IDs does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel

from llmrec.baselines import Fusion
from llmrec.decoding.beam_search import DEFAULT_SCORES, BeamSearch, ScoreKind
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.item_prior import PriorScores
from llmrec.decoding.rank import rank_items
from llmrec.decoding.rules import Rules
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment
from llmrec.prompts.ulmrec import user_opening
from llmrec.vocabulary import check_catalog

#: Under which the search knows the candidates of an evaluation.
_CANDIDATES = "candidates"


def prior_scores(fusion: Fusion | None, histories: Sequence[Sequence[int]]) -> PriorScores | None:
    """What a search is given for users with these histories (item indices); an empty one leaves the model alone."""
    if fusion is None or not any(len(history) for history in histories):
        return None
    return PriorScores(fusion.item_knn.scores(histories), fusion.weight)


class Ranks(Protocol):
    """What evaluation asks of a method, whose model changes while it is trained.

    Attributes:
        item_ids: of the catalogue, in the order of its item indices.
        max_history: items of the history shown to the model, the latest ones.
        batch_size: users at a time.
    """

    max_history: int
    batch_size: int

    @property
    def item_ids(self) -> list[str]: ...

    def recommend(
        self,
        model: Any,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
        candidates: np.ndarray | None = None,
        progress: bool = True,
        user_ids: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Item indices, best first: int64 of shape (num_users, k), -1 where the catalogue had no more to give.

        Args:
            model: fine-tuned model.
            histories: item indices of each user, oldest first.
            k: list length.
            exclude: for each user, item indices that must not be returned.
            candidates: bool array of shape (num_items,): the items that anyone may get; None for all.
            progress: show a bar.
            user_ids: whose histories they are, for a method that knows its users.
        """
        ...


@dataclass
class Recommender:
    """A prompt and a constrained search around a model.

    Args:
        renderer: of the catalog and vocabulary that the model was trained with.
        prompt: segments that ask for the item after a history of item ids, worded as in training.
        max_history: items of the history shown to the model, the latest ones.
        num_beams: search width.
        batch_size: users at a time.
        scores: what beams are ranked by, as for ``BeamSearch``.
        users: whose indices stand at the head of prompts; None where none do.
        fusion: what the search mixes into the model's ranking; None for the model alone.
    """

    renderer: SegmentRenderer
    prompt: Callable[[Sequence[str]], list[Segment]]
    max_history: int
    num_beams: int
    batch_size: int = 32
    scores: ScoreKind = DEFAULT_SCORES
    users: UserIndex | None = None
    fusion: Fusion | None = None

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
        """As ``Ranks`` says; ``k`` is at most ``num_beams``.

        Raises:
            DataError: if the model was trained with another catalog.
        """
        check_catalog(model.config, self.renderer.catalog)
        trie = DeviceTrie(self.renderer.trie, self.renderer.code_token_ids, model.device)
        subsets = None if candidates is None else {_CANDIDATES: np.flatnonzero(candidates).tolist()}
        search = BeamSearch(model, trie, self.scores, subsets=subsets)
        ids = [None] * len(histories) if user_ids is None else user_ids
        is_encoder_decoder = model.config.is_encoder_decoder
        prompts = [
            self.prompt_tokens(history, is_encoder_decoder, user_id)
            for history, user_id in zip(histories, ids, strict=True)
        ]
        allow = None if candidates is None else _CANDIDATES
        rules = [Rules(exclude=items, allow=allow) for items in (exclude or [()] * len(histories))]

        def prior(rows: Sequence[int]) -> PriorScores | None:
            return prior_scores(self.fusion, [histories[row] for row in rows])

        return rank_items(search, prompts, self.num_beams, k, rules, self.batch_size, progress, prior)

    def prompt_tokens(self, history: Sequence[int], is_encoder_decoder: bool, user_id: str | None = None) -> list[int]:
        """Token ids of one user's prompt."""
        item_ids = [self.renderer.catalog.item_ids[index] for index in history[-self.max_history :]]
        front = [] if self.users is None else user_opening(self.users.codes_of(user_id, history))
        return self.renderer.prompt_tokens([*front, *self.prompt(item_ids)], is_encoder_decoder)
