"""The catalogue constraint inside vLLM, for its V1 model runner: ``--logits-processors`` takes this class.

Give vLLM ``--logprobs-mode processed_logits`` with it: what comes back as log-probabilities is then what the processor
made, over the whole vocabulary or over the valid continuations. A request's place in the catalogue is read from the
tokens that it ends with, so nothing is counted and no state can go stale.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from llmrec.catalog import Catalog
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.logits_processor import continuations
from llmrec.hub import resolve_checkpoint
from llmrec.trie import END, Trie
from llmrec.vocabulary import ItemVocabulary

#: Keys of vLLM's ``additional_config``: kind of scores, and the folder of tries that are made while the server runs.
SCORES_OPTION = "llmrec_scores"
TRIES_OPTION = "llmrec_tries"

#: Tries held at a time: the one in use, those that requests in flight began with, and one to roll back to.
_MAX_TRIES = 4

#: Stands for item tokens out of order: neither a code nor the end of an ID.
_NO_CODE = END - 1

_TRIE_NAME = re.compile("[0-9a-f]{16}")


class _Row(NamedTuple):
    """A constrained request; ``output`` is vLLM's own list, which grows."""

    prompt: list[int]
    output: list[int]
    catalog: str | None
    prompt_length: int | None


@dataclass(frozen=True)
class _Place:
    """Rows of the batch that one look-up serves."""

    rows: list[int]
    nodes: np.ndarray
    catalog: str | None
    depth: int


class CatalogLogitsProcessor(LogitsProcessor):
    """Lets a request go on only with tokens that lead to a catalogue item.

    The model's folder must be a checkpoint of llmrec: its catalog is the one that counts. The last tokens of prompt and
    output, as many as are item tokens of the levels in order, are the prefix of the item to come; after a whole item
    that the request itself has written, only the end token follows. A prefix that no item has leaves no token at all:
    such a row comes back with -inf throughout.

    ``additional_config`` may say which scores (``SCORES_OPTION``): ``"vocabulary"``, log-probabilities over the whole
    vocabulary and the default, or ``"catalog"``, renormalised over the valid continuations. A request may say in
    ``extra_args`` (``vllm_xargs`` over HTTP): ``constrained`` false, for free text; ``catalog``, the name of a
    trie in the folder of ``TRIES_OPTION``, for another catalogue than the model folder's; ``prompt_length``, how many
    of the prompt's tokens are no part of the item to come, where these may end in item tokens themselves.

    Raises:
        DataError, FileNotFoundError, ValueError: if the model's folder is no checkpoint of llmrec's.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what could only fail inside the engine."""
        arguments = sampling_params.extra_args or {}
        length = arguments.get("prompt_length", 0)
        if not isinstance(length, int) or length < 0:
            raise ValueError(f"prompt_length is {length!r}; it is a number of tokens.")
        if not _TRIE_NAME.fullmatch(str(arguments.get("catalog", "0" * 16))):
            raise ValueError(f"catalog is {arguments['catalog']!r}; it takes a name of 16 hex digits.")

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._device = device
        folder = resolve_checkpoint(vllm_config.model_config.model)
        catalog = Catalog.load(folder)
        tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        vocabulary = ItemVocabulary(tokenizer, catalog.codebook_sizes)
        self._code_token_ids = vocabulary.code_token_ids
        self._eos = tokenizer.eos_token_id
        options = cast(dict[str, str], vllm_config.additional_config)
        self._scores = options.get(SCORES_OPTION, "vocabulary")
        self._folder = options.get(TRIES_OPTION)
        self._tries: OrderedDict[str, DeviceTrie | None] = OrderedDict()
        self._own_trie = self._device_trie(Trie.from_semantic_ids(catalog.semantic_ids))
        self._levels, self._codes = _token_tables(self._code_token_ids)
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow vLLM's batch."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            arguments = params.extra_args or {}
            self._rows.pop(index, None)
            if arguments.get("constrained", True):
                catalog, length = arguments.get("catalog"), arguments.get("prompt_length")
                self._rows[index] = _Row(prompt or [], output, catalog, length)
        for source, target, direction in batch_update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if direction == MoveDirectionality.SWAP and other is not None:
                self._rows[source] = other

    def apply(self, logits: Tensor) -> Tensor:
        """Log-probabilities of valid continuations in constrained rows, -inf elsewhere in them: (rows, vocabulary)."""
        for place in self._find_places():
            trie = self._trie(place.catalog)
            rows = torch.tensor(place.rows, device=self._device)
            log_probs = logits[rows].log_softmax(-1)
            if trie is None:
                masked = torch.full_like(log_probs, -torch.inf)
            elif place.depth == trie.num_codebooks:
                masked = torch.full_like(log_probs, -torch.inf)
                masked[:, self._eos] = 0.0
            else:
                nodes = torch.from_numpy(place.nodes).to(self._device, non_blocking=True)
                masked = continuations(trie, nodes.unsqueeze(1), place.depth, log_probs, self._eos)
                if self._scores == "catalog":
                    masked = torch.where(masked.isneginf(), masked, masked.log_softmax(-1))
            logits[rows] = masked
        return logits

    def _find_places(self) -> list[_Place]:
        """Rows by catalogue and depth, with the node that each is at."""
        groups: dict[tuple[str | None, int], tuple[list[int], list[list[int]]]] = {}
        for index, row in self._rows.items():
            depth, codes = self._prefix(row)
            rows, prefixes = groups.setdefault((row.catalog, depth), ([], []))
            rows.append(index)
            prefixes.append(codes)
        places = []
        for (catalog, depth), (rows, prefixes) in groups.items():
            trie = self._trie(catalog)
            nodes = np.zeros(len(rows), dtype=np.int64)
            if trie is not None and depth < trie.num_codebooks:
                nodes = trie.trie.walk(np.array(prefixes, dtype=np.int64).reshape(len(rows), -1))
            places.append(_Place(rows, nodes, catalog, depth))
        return places

    def _prefix(self, row: _Row) -> tuple[int, list[int]]:
        """Depth and codes of the prefix that a request ends with; depth is num_codebooks after an item of its own."""
        num_codebooks = len(self._code_token_ids)
        if row.prompt_length is not None:
            written = [*row.prompt[row.prompt_length :], *row.output][:num_codebooks]
            return len(written), self._codes_of(written)
        tail = row.output[-num_codebooks:]
        if len(tail) < num_codebooks:
            tail = row.prompt[len(tail) - num_codebooks :] + tail
        depth = 1 + self._level(tail[-1])
        if depth == num_codebooks:
            return (num_codebooks, []) if row.output else (0, [])
        return depth, self._codes_of(tail[len(tail) - depth :])

    def _codes_of(self, tokens: list[int]) -> list[int]:
        """Codes of item tokens, one for each level from the first; tokens out of order stand for no item's prefix."""
        in_order = all(self._level(token) == level for level, token in enumerate(tokens))
        return [int(self._codes[token]) if in_order else _NO_CODE for token in tokens]

    def _level(self, token: int) -> int:
        """Level of an item token; -1 for any other."""
        return int(self._levels[token]) if 0 <= token < len(self._levels) else -1

    def _trie(self, catalog: str | None) -> DeviceTrie | None:
        """The trie of a catalogue, opened when a request first names it; None where there is none."""
        if catalog is None:
            return self._own_trie
        if catalog not in self._tries:
            path = None if self._folder is None else Path(self._folder) / catalog
            known = path is not None and path.is_dir()
            self._tries[catalog] = self._device_trie(Trie.load(path)) if path is not None and known else None
            while len(self._tries) > _MAX_TRIES:
                self._tries.popitem(last=False)
        self._tries.move_to_end(catalog)
        return self._tries[catalog]

    def _device_trie(self, trie: Trie) -> DeviceTrie:
        return DeviceTrie(trie, self._code_token_ids, self._device)


def _token_tables(code_token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level and code of each token id up to the largest item token; level -1 where it is none."""
    size = int(code_token_ids.max()) + 1
    levels, codes = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for level, row in enumerate(code_token_ids):
        tokens = row[row >= 0]
        levels[tokens], codes[tokens] = level, np.arange(len(tokens))
    return levels, codes
