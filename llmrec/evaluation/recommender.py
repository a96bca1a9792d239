"""Histories in, ranked items out: what every trained recommender answers, and how one of semantic IDs does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel

from llmrec.decoding.beam_search import DEFAULT_SCORES, BeamSearch, ScoreKind
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rank import rank_items
from llmrec.decoding.rules import Rules
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment
from llmrec.trie import Trie
from llmrec.vocabulary import check_catalog

#: Under which the search knows the candidates of an evaluation.
_CANDIDATES = "candidates"


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
    ) -> np.ndarray:
        """Item indices, best first: int64 of shape (num_users, k), -1 where the catalogue had no more to give.

        Args:
            model: fine-tuned model.
            histories: item indices of each user, oldest first.
            k: list length.
            exclude: for each user, item indices that must not be returned.
            candidates: bool array of shape (num_items,): the items that anyone may get; None for all.
            progress: show a bar.
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
    """

    renderer: SegmentRenderer
    prompt: Callable[[Sequence[str]], list[Segment]]
    max_history: int
    num_beams: int
    batch_size: int = 32
    scores: ScoreKind = DEFAULT_SCORES

    def __post_init__(self) -> None:
        self._trie = Trie.from_semantic_ids(self.renderer.catalog.semantic_ids)

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
    ) -> np.ndarray:
        """As ``Ranks`` says; ``k`` is at most ``num_beams``.

        Raises:
            DataError: if the model was trained with another catalog.
        """
        check_catalog(model.config, self.renderer.catalog)
        trie = DeviceTrie(self._trie, self.renderer.vocabulary.code_token_ids, model.device)
        subsets = None if candidates is None else {_CANDIDATES: np.flatnonzero(candidates).tolist()}
        search = BeamSearch(model, trie, self.scores, subsets=subsets)
        prompts = [self.prompt_tokens(history, model.config.is_encoder_decoder) for history in histories]
        allow = None if candidates is None else _CANDIDATES
        rules = [Rules(exclude=items, allow=allow) for items in (exclude or [()] * len(histories))]
        return rank_items(search, prompts, self.num_beams, k, rules, self.batch_size, progress)

    def prompt_tokens(self, history: Sequence[int], is_encoder_decoder: bool) -> list[int]:
        """Token ids of one user's prompt."""
        item_ids = [self.renderer.catalog.item_ids[index] for index in history[-self.max_history :]]
        return self.renderer.prompt_tokens(self.prompt(item_ids), is_encoder_decoder)
