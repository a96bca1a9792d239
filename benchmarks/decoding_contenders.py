"""The contenders of benchmarks/decoding.py: ours, and ``generate`` under three constraints."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from benchmarks.decoding_measure import release_freed_memory, resident_bytes
from benchmarks.decoding_setup import MAX_DICTIONARY_ITEMS, BenchmarkCatalog
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.generate import generate_items, neutral_generation_config
from llmrec.decoding.logits_processor import CatalogLogitsProcessor
from llmrec.decoding.model_outputs import pad_prompts
from llmrec.decoding.ranked_items import RankedItems

Prompts = Sequence[Sequence[int]]

#: name -> what a table calls it.
CONTENDERS = {
    "ours": "BeamSearch",
    "ours_catalog": "BeamSearch, catalog scores",
    "generate_prefix_fn": "generate + prefix_allowed_tokens_fn",
    "generate_processor": "generate + CatalogLogitsProcessor",
    "generate_dictionary": "generate + dictionary processor",
}
DICTIONARY_CONTENDERS = ("generate_prefix_fn", "generate_dictionary")


@dataclass(frozen=True)
class Lists:
    """What a contender returned, best first; all of shape (users, num_beams).

    Attributes:
        entries: int64: item indices, or keys of semantic IDs; -1 for none.
        keys: int64: keys of semantic IDs, -1 for none.
        scores: float32.
    """

    entries: np.ndarray
    keys: np.ndarray
    scores: np.ndarray

    def scored(self) -> list["ScoredKeys"]:
        """Keys with their scores, for each user."""
        users = zip(self.keys.tolist(), self.scores.tolist(), strict=True)
        return [list(zip(keys, scores, strict=True)) for keys, scores in users]

    def count_invalid(self, catalog: BenchmarkCatalog) -> int:
        """Entries that are in no catalog, are missing, or stand in a list a second time."""
        invalid = ~np.isin(self.keys, catalog.keys)
        for row, entries in enumerate(self.entries):
            _, first = np.unique(entries, return_index=True)
            repeated = np.ones(len(entries), dtype=bool)
            repeated[first] = False
            invalid[row] |= repeated
        return int(invalid.sum())


#: (key, score) of one list, best first.
ScoredKeys = list[tuple[Any, float]]


def equal_but_ties(a: ScoredKeys, b: ScoredKeys, tie: float) -> bool:
    """Whether two lists agree place by place in their scores, and item by item, within ``tie``."""
    if len(a) != len(b):
        return False
    known = dict(b)
    # an item that only one list has must tie with the other's last place
    last = b[-1][1]
    return all(abs(score - known.get(key, last)) < tie for key, score in a) and all(
        abs(x - y) < tie for (_, x), (_, y) in zip(a, b, strict=True)
    )


@dataclass(frozen=True)
class Contender:
    """A way to rank items over one catalog.

    Attributes:
        rank: prompts and num_beams to what its own interface returns.
        lists: that, as lists.
        processor: the kind of logits processor whose calls are its constraint; None for ours.
        search: the engine, for ours.
        index_bytes: that the constraint keeps for the catalog.
    """

    rank: Callable[[Prompts, int], Any]
    lists: Callable[[Any], Lists]
    processor: type | None
    search: BeamSearch | None
    index_bytes: int


def build_contender(name: str, model: PreTrainedModel, catalog: BenchmarkCatalog) -> Contender:
    """One of ``CONTENDERS`` over ``catalog``."""

    def of_items(ranked: RankedItems) -> Lists:
        items = ranked.items.cpu().numpy()
        known = (items >= 0) & (items < len(catalog.keys))
        keys = np.where(known, catalog.keys[np.where(known, items, 0)], -1)
        return Lists(items, keys, ranked.scores.cpu().numpy())

    if name in ("ours", "ours_catalog"):
        search = BeamSearch(model, catalog.trie, scores="vocabulary" if name == "ours" else "catalog")
        return Contender(search, of_items, None, search, catalog.trie.trie.nbytes)
    if name == "generate_processor":
        return Contender(
            lambda prompts, num_beams: generate_items(model, prompts, catalog.trie, num_beams),
            of_items,
            CatalogLogitsProcessor,
            None,
            catalog.trie.trie.nbytes,
        )
    return _dictionary_contender(name, model, catalog)


def _dictionary_contender(name: str, model: PreTrainedModel, catalog: BenchmarkCatalog) -> Contender:
    levels = catalog.semantic_ids.shape[1]
    release_freed_memory()
    before = resident_bytes()
    prefix_fn = name == "generate_prefix_fn"
    index = nested_dictionary(catalog.item_tokens) if prefix_fn else prefix_dictionary(catalog.item_tokens)
    # a collector that walks millions of dictionaries would count against them
    release_freed_memory()
    gc.freeze()
    index_bytes = resident_bytes() - before

    def rank(prompts: Prompts, num_beams: int) -> tuple[Tensor, Tensor]:
        width = max(len(prompt) for prompt in prompts)
        if prefix_fn:
            constraint: dict[str, Any] = {"prefix_allowed_tokens_fn": AllowedTokens(index, width)}
        else:
            constraint = {"logits_processor": LogitsProcessorList([DictionaryProcessor(index, width, num_beams)])}
        return generate(model, prompts, num_beams, levels, constraint)

    def lists(output: tuple[Tensor, Tensor]) -> Lists:
        keys = catalog.token_keys(output[0].cpu().numpy())
        return Lists(keys, keys, output[1].cpu().float().numpy())

    return Contender(
        rank, lists, PrefixConstrainedLogitsProcessor if prefix_fn else DictionaryProcessor, None, index_bytes
    )


def why_not_built(name: str, catalog_size: int) -> str | None:
    """Why a contender is not run over so many items, or None."""
    if name in DICTIONARY_CONTENDERS and catalog_size > MAX_DICTIONARY_ITEMS:
        return f"not built: a Python dictionary of more than {MAX_DICTIONARY_ITEMS:,} items"
    return None


@torch.no_grad()
def generate(
    model: PreTrainedModel, prompts: Prompts, num_beams: int, levels: int, constraint: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Beam search of transformers: tokens (users, num_beams, levels) and scores (users, num_beams)."""
    input_ids, mask = pad_prompts(prompts, model.device, left=True)
    with neutral_generation_config(model):
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask.long(),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=levels,
            do_sample=False,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
            **constraint,
        )
    tokens = output.sequences[:, input_ids.shape[1] :]
    return tokens.view(len(prompts), num_beams, -1), output.sequences_scores.view(len(prompts), num_beams)


def nested_dictionary(item_tokens: np.ndarray) -> dict[int, Any]:
    """Dictionaries in dictionaries: token -> what may follow."""
    root: dict[int, Any] = {}
    for tokens in item_tokens.tolist():
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


class AllowedTokens:
    """A ``prefix_allowed_tokens_fn`` that walks a nested dictionary from the root at every call."""

    def __init__(self, root: dict[int, Any], prompt_width: int) -> None:
        self._root = root
        self._prompt_width = prompt_width

    def __call__(self, batch_id: int, input_ids: Tensor) -> list[int]:  # noqa: ARG002 - generate's signature
        node = self._root
        for token in input_ids[self._prompt_width :].tolist():
            # generate fills beams that the catalog could not with any token; their score is -inf and stays so
            node = node.get(token, self._root)
        return list(node)


def prefix_dictionary(item_tokens: np.ndarray) -> dict[str, list[int]]:
    """Prefix, its tokens joined to a string -> tokens that may follow it."""
    followers: dict[str, set[int]] = {}
    for tokens in item_tokens.tolist():
        for depth in range(len(tokens)):
            followers.setdefault(join(tokens[:depth]), set()).add(tokens[depth])
    return {prefix: list(tokens) for prefix, tokens in followers.items()}


def join(tokens: list[int]) -> str:
    return "-".join(map(str, tokens))


class DictionaryProcessor(LogitsProcessor):
    """The constraint as repositories of generative recommenders write it: a Python loop over users and beams.

    Every call makes a mask as large as the scores and looks each beam's prefix up in a dictionary of strings.
    """

    def __init__(self, followers: dict[str, list[int]], prompt_width: int, num_beams: int) -> None:
        self._followers = followers
        self._prompt_width = prompt_width
        self._num_beams = num_beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.log_softmax(-1)
        mask = torch.full_like(scores, -torch.inf)
        for user, beams in enumerate(input_ids.view(-1, self._num_beams, input_ids.shape[1])):
            for beam, tokens in enumerate(beams):
                allowed = self._followers.get(join(tokens[self._prompt_width :].tolist()))
                if allowed is not None:
                    mask[user * self._num_beams + beam, allowed] = 0.0
        return scores + mask
