"""Catalog-constrained beam search: prompts in, ranked items out, for decoder-only models and encoder-decoders."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.catalog import Catalog
from llmrec.decoding.beam_walk import Beams, BeamWalk, Children, keep
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.item_prior import ItemPrior, PriorScores
from llmrec.decoding.model_outputs import CodeLogits
from llmrec.decoding.probe import find_way
from llmrec.decoding.ranked_items import RankedItems, ranked_items
from llmrec.decoding.rules import ItemSubsets, Rules, allowed_children, batch_rules
from llmrec.decoding.selection import gumbel_children
from llmrec.decoding.trace import BeamTrace
from llmrec.trie import END, Trie
from llmrec.vocabulary import ItemVocabulary, check_catalog

ScoreKind = Literal["vocabulary", "catalog"]

#: Chosen by validation on two datasets and two seeds (docs/decoding.md).
DEFAULT_SCORES: ScoreKind = "vocabulary"


class BeamSearch:
    """Ranks catalogue items as continuations of prompts.

    Every level, the children of the live trie nodes are gathered, scored and cut to the best ``num_beams``. The prompt
    runs once for each user, and the beams share it where the model's attention can (``probe`` finds out; other models
    get a cache for each beam, with the same results and a line in the log).

    Args:
        model: decoder-only or encoder-decoder model, on the trie's device; adapters may be active in it.
        trie: the catalogue's semantic IDs.
        scores: ``"vocabulary"``: log-probabilities over the whole vocabulary, then cut to the catalogue: what
            ``generate`` has with a masking processor. ``"catalog"``: renormalised over the continuations that lead to
            an item; only the level's rows of the output head are evaluated. Rules remove items, they never change
            scores.
        subsets: item indices of each name that a rule's ``allow`` may give.

    Raises:
        ValueError: if an item token lies outside the model's vocabulary, a subset is empty, or the model can't be
            searched.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        trie: DeviceTrie,
        scores: ScoreKind = DEFAULT_SCORES,
        subsets: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if scores not in ("vocabulary", "catalog"):
            raise ValueError(f"scores is {scores!r}; allowed are 'vocabulary' and 'catalog'.")
        self.model: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.trie = trie
        self.scores = scores
        self.subsets = ItemSubsets(trie, subsets or {})
        rows = self.model.config.get_text_config().vocab_size
        largest = max(int(tokens.max()) for tokens in trie.code_tokens)
        if largest >= rows:
            raise ValueError(
                f"A semantic ID has the token {largest}, but the model's vocabulary ends at {rows - 1}. Use the model "
                "that was trained with this catalog, or give it the tokens with resize_embeddings."
            )
        with searching(self.model):
            self.way = find_way(self.model, trie)
        self._code_logits = CodeLogits(self.model, trie, self.way.hidden)

    @classmethod
    def from_catalog(
        cls, model: PreTrainedModel, catalog: Catalog, vocabulary: ItemVocabulary, **options: Any
    ) -> "BeamSearch":
        """Search over all items of ``catalog``; ``options`` are those of the constructor.

        Raises:
            DataError: if the model was trained with another catalog.
        """
        check_catalog(model.config, catalog)
        trie = DeviceTrie(Trie.from_semantic_ids(catalog.semantic_ids), vocabulary.code_token_ids, model.device)
        return cls(model, trie, **options)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        num_beams: int,
        k: int | None = None,
        rules: Sequence[Rules | None] | None = None,
        max_per_first_code: int | None = None,
        trace: BeamTrace | None = None,
        prior: PriorScores | None = None,
    ) -> RankedItems:
        """Rank items for a batch of users.

        Args:
            prompts: token ids of each user's prompt, one or more; lengths may differ.
            num_beams: search width. With as many beams as items the ranking is exact.
            k: list length, at most ``num_beams`` (the default).
            rules: what each user may get.
            max_per_first_code: at most so many items whose semantic IDs start with the same code, as in ``BeamWalk``.
            trace: collects the beam tree, where given.
            prior: what the model is mixed with, as ``ItemPrior`` says: lists are then ranked by the mixture, and the
                scores returned are the mixture's.

        Raises:
            ValueError: if a number is out of range, a prompt is empty or longer than the model's positions, or a rule
                names what there is not.
        """
        k = num_beams if k is None else k
        self._check(prompts, num_beams, k)
        limits = batch_rules(self.trie, rules, self.subsets, len(prompts))
        if prior is not None and prior.scores.shape[0] != len(prompts):
            raise ValueError(f"The prior has {prior.scores.shape[0]} rows for {len(prompts)} prompts: give one each.")
        mixed = None if prior is None else ItemPrior(self.trie, prior, limits)
        walk = BeamWalk(self.trie, len(prompts), num_beams, k, limits, max_per_first_code, trace, mixed)
        with searching(self.model):
            state = self.way.state(self.model, prompts, self.way.hidden)
            outputs = state.prefill()
            while not walk.finished:
                depth, children = walk.depth, walk.children()
                codes, parents = walk.keep(children, self._log_probs(depth, outputs, children))
                outputs = self._advance(state, depth, codes, parents)
        return walk.ranked()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        rules: Sequence[Rules | None] | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> RankedItems:
        """Draw items without replacement (stochastic beams, arXiv 1903.06059), for training rollouts.

        The policy is the model renormalised over the continuations that the rules leave, whatever ``scores`` the search
        ranks by; of two draws, the one that would come first without replacement stands first.

        Args:
            prompts: as for a search.
            num_samples: different semantic IDs to draw for each prompt.
            rules: what each user may get.
            temperature: logits are divided by it.
            generator: of the noise.

        Returns:
            Items in the order drawn, with their log-probabilities under the policy. Of items that share a semantic ID,
            the first that may be returned.
        """
        self._check(prompts, num_samples, num_samples)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0.")
        limits = batch_rules(self.trie, rules, self.subsets, len(prompts))
        with searching(self.model):
            state, beams = (
                self.way.state(self.model, prompts, self.way.hidden),
                Beams.roots(len(prompts), self.trie.device),
            )
            outputs = state.prefill()
            for depth in range(self.trie.num_codebooks):
                logits = self._code_logits.logits(outputs, depth)
                children, codes, valid = allowed_children(self.trie, beams.nodes, depth, limits)
                scores = self._renormalized(depth, logits / temperature, codes, valid) + beams.scores.unsqueeze(-1)
                keys = gumbel_children(beams.keys, scores, generator)
                beams, parents, codes = keep(depth, beams, children, codes, keys, scores, num_samples, None)
                outputs = self._advance(state, depth, codes, parents)
        return ranked_items(self.trie, beams.nodes, beams.scores, num_samples, limits, groups=beams.nodes, per_group=1)

    def _log_probs(self, depth: int, outputs: Tensor, children: Children) -> Tensor:
        """Log-probabilities of continuations (users, beams, widest branching), from outputs (users, beams, width)."""
        if self.scores == "catalog":
            logits = self._code_logits.logits(outputs, depth)
            return self._renormalized(depth, logits, children.codes, children.valid)
        return self._gather(depth, self._code_logits.log_probs(outputs, depth), children.codes)

    def _advance(self, state: Any, depth: int, codes: Tensor, parents: Tensor) -> Tensor:
        """Outputs after the chosen codes; the last level needs none."""
        if depth + 1 == self.trie.num_codebooks:
            return torch.empty(0)
        # a beam whose ID has ended runs on with any token: nothing is read from it
        return state.advance(self.trie.code_tokens[depth][codes.clamp(min=0)], parents)

    def _gather(self, depth: int, values: Tensor, codes: Tensor) -> Tensor:
        """Values of (users, beams, all codes) at ``codes``; ending an ID costs nothing."""
        if self.trie.trie.is_dense[depth]:
            return values
        if not self.trie.trie.has_end[depth]:
            return values.gather(-1, codes)
        return values.gather(-1, codes.clamp(min=0)).masked_fill(codes == END, 0.0)

    def _renormalized(self, depth: int, logits: Tensor, codes: Tensor, valid: Tensor) -> Tensor:
        gathered = self._gather(depth, logits, codes).masked_fill(~valid, -torch.inf)
        return gathered.log_softmax(-1).masked_fill(~valid, -torch.inf)

    def _check(self, prompts: Sequence[Sequence[int]], num_beams: int, k: int) -> None:
        if num_beams < 1:
            raise ValueError(f"num_beams is {num_beams}; a search needs 1 or more.")
        if not 0 < k <= num_beams:
            raise ValueError(f"k is {k}; it needs 1 <= k <= num_beams, and num_beams is {num_beams}.")
        if not prompts:
            raise ValueError("prompts is empty: give one prompt or more.")
        lengths = [len(prompt) for prompt in prompts]
        if not all(lengths):
            raise ValueError(f"Prompt {lengths.index(0)} is empty: each needs one token or more.")
        config = self.model.config
        positions = None if config.is_encoder_decoder else getattr(config, "max_position_embeddings", None)
        room = None if positions is None else positions - self.trie.num_codebooks + 1
        if room is not None and max(lengths) > room:
            raise ValueError(
                f"Prompt {lengths.index(max(lengths))} has {max(lengths)} tokens; the model has {positions} positions, "
                f"which leave {room} for a prompt before a semantic ID of {self.trie.num_codebooks} tokens. Shorten "
                "the history."
            )


@contextmanager
def searching(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; the mode that the model was in comes back at the end."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
