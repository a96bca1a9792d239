"""Stock vLLM's constraint in benchmarks/serving.py: a V1 logits processor over Python dictionaries.

    python -m vllm.entrypoints.openai.api_server --model CHECKPOINT --logprobs-mode processed_logits \
        --logits-processors benchmarks.serving_stock:DictTrieProcessor

What published repositories write, less their faults: the prefix is read from a request's last tokens instead of being
counted, an unknown prefix allows nothing instead of everything, and masked tokens get -inf, not a large number. It
shares no code with llmrec. Scores are log-probabilities over the whole vocabulary: log_softmax comes before the mask.
"""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class _Request(NamedTuple):
    prompt: Sequence[int]  # stock beam search starts a request for each beam and step: its prompt ends with the beam
    output: Sequence[int]  # vLLM's own list, which grows


class DictTrieProcessor(LogitsProcessor):
    """Keeps requests on the catalogue of the model's folder, with a dictionary look-up for each row of each step."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        folder = Path(vllm_config.model_config.model)
        self._levels, followers = prefix_dictionary(catalog_tokens(folder))
        # index tensors once, not a list turned into one for each row of each step
        self._followers = {prefix: torch.tensor(sorted(tokens), device=device) for prefix, tokens in followers.items()}
        self._requests: dict[int, _Request] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._requests.pop(index, None)
        for index, _, prompt, output in batch_update.added:
            self._requests[index] = _Request(prompt or (), output)
        for first, second, direction in batch_update.moved:
            moved, replaced = self._requests.pop(first, None), self._requests.pop(second, None)
            if moved is not None:
                self._requests[second] = moved
            if direction is MoveDirectionality.SWAP and replaced is not None:
                self._requests[first] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """Log-probabilities where a row's prefix can go on, -inf elsewhere; (num_requests, vocabulary)."""
        log_probs = logits.log_softmax(-1)
        masked = torch.full_like(log_probs, -torch.inf)
        for row in range(len(logits)):
            allowed = self._followers.get(self._prefix(self._requests[row]))
            if allowed is not None:
                masked[row, allowed] = log_probs[row, allowed]
        return masked

    def _prefix(self, request: _Request) -> tuple[int, ...]:
        """The codes after the last complete item: none where text or a whole item comes last."""
        num_levels = len(self._levels)
        tail = request.output[-num_levels:]
        if len(tail) < num_levels:
            tail = [*request.prompt[-(num_levels - len(tail)) :], *tail]
        depth = next((level + 1 for level in range(num_levels) if tail and tail[-1] in self._levels[level]), 0)
        return tuple(tail[-depth:]) if 0 < depth < num_levels else ()


def catalog_tokens(folder: Path) -> list[list[int]]:
    """Token ids of a checkpoint's catalogue: for each item its (code) tokens, read with nothing of llmrec's."""
    known = AutoTokenizer.from_pretrained(folder).get_vocab()
    semantic_ids = pq.read_table(folder / "catalog.parquet", columns=["semantic_id"])["semantic_id"].to_pylist()
    letters = string.ascii_lowercase
    return [[known[f"<{letters[level]}_{code}>"] for level, code in enumerate(codes)] for codes in semantic_ids]


def prefix_dictionary(items: list[list[int]]) -> tuple[list[set[int]], dict[tuple[int, ...], set[int]]]:
    """The tokens that occur at each level, and for each prefix the tokens that may follow it."""
    levels: list[set[int]] = [set() for _ in items[0]]
    followers: dict[tuple[int, ...], set[int]] = {}
    for tokens in items:
        for level, token in enumerate(tokens):
            levels[level].add(token)
            followers.setdefault(tuple(tokens[:level]), set()).add(token)
    return levels, followers
