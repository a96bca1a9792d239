"""What benchmarks/decoding.py runs on: named model shapes with random weights, random catalogs, and prompts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.trie import Trie

CODEBOOK_SIZE = 256
#: Tokens of wording before the history.
WORDING = (2, 3, 4, 5)
#: Items that contenders which keep the catalog in a Python dictionary are built for, at most.
MAX_DICTIONARY_ITEMS = 1_000_000

_LLAMA = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": 0, "tie_word_embeddings": True, "head_dim": 64}
_QWEN3 = {**_LLAMA, "head_dim": 128, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}

#: name -> configuration; ``vocab_size`` counts the text tokens, item tokens are added to it.
MODEL_SHAPES: dict[str, PreTrainedConfig] = {
    "tiny": LlamaConfig(
        vocab_size=4096,
        hidden_size=384,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=1024,
        **_LLAMA,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=8192,
        **_LLAMA,
    ),
    "qwen3-0.6b": Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, max_position_embeddings=40960, **_QWEN3
    ),
    "qwen3-1.7b": Qwen3Config(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, max_position_embeddings=40960, **_QWEN3
    ),
}


@dataclass(frozen=True)
class Settings:
    """What a run measures; the options of benchmarks/decoding.py."""

    model: str
    device: str
    dtype: str
    seed: int
    beams: tuple[int, ...]
    histories: tuple[int, ...]  # items
    batch_sizes: tuple[int, ...]
    catalog_sizes: tuple[int, ...]
    num_codebooks: int
    repeats: int
    generate_repeats: int

    @property
    def shared_catalog_size(self) -> int:
        """The largest catalog that every contender can hold; the smallest of the run where it is none of them."""
        return max(
            [size for size in self.catalog_sizes if size <= MAX_DICTIONARY_ITEMS], default=min(self.catalog_sizes)
        )

    @property
    def headline(self) -> "Cell":
        """The widest search over the longest histories in the largest batch."""
        return Cell(self.shared_catalog_size, max(self.beams), max(self.histories), max(self.batch_sizes))


@dataclass(frozen=True)
class Cell:
    """One place in the grid."""

    catalog_size: int
    num_beams: int
    history: int  # items
    batch_size: int


def build_model(settings: Settings) -> PreTrainedModel:
    """The named shape with seeded random weights and rows for the item tokens, in evaluation mode."""
    config = MODEL_SHAPES[settings.model].__class__(**MODEL_SHAPES[settings.model].to_dict())
    config.vocab_size += settings.num_codebooks * CODEBOOK_SIZE
    torch.manual_seed(settings.seed)
    with torch.device(settings.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, settings.dtype)).eval()
    # fresh logits are nearly uniform: spread them, so that rankings are not decided by rounding
    model.get_output_embeddings().weight.data.mul_(3.0)
    return model


class BenchmarkCatalog:
    """Random semantic IDs and their tokens.

    Args:
        settings: of the run.
        num_items: how many; a larger catalog of one seed starts with the items of a smaller one.
        unique: leave out items that repeat an ID.

    Attributes:
        semantic_ids: int64 (num_items, num_codebooks).
        code_token_ids: int64 (num_codebooks, CODEBOOK_SIZE).
    """

    def __init__(self, settings: Settings, num_items: int, unique: bool = False) -> None:
        rng = np.random.default_rng(settings.seed)
        ids = rng.integers(0, CODEBOOK_SIZE, (num_items, settings.num_codebooks))
        self.semantic_ids = np.unique(ids, axis=0) if unique else ids
        first = MODEL_SHAPES[settings.model].vocab_size
        self.code_token_ids = first + np.arange(settings.num_codebooks * CODEBOOK_SIZE).reshape(-1, CODEBOOK_SIZE)
        self._device = settings.device

    @cached_property
    def trie(self) -> DeviceTrie:
        return DeviceTrie(Trie.from_semantic_ids(self.semantic_ids), self.code_token_ids, self._device)

    @cached_property
    def keys(self) -> np.ndarray:
        """One integer for each item's semantic ID: int64 (num_items,)."""
        return pack(self.semantic_ids)

    @property
    def item_tokens(self) -> np.ndarray:
        """int64 (num_items, num_codebooks)."""
        return self.semantic_ids + self.code_token_ids[:, 0]

    def token_keys(self, tokens: np.ndarray) -> np.ndarray:
        """Keys of generated tokens (..., num_codebooks); -1 where one is no code of its level."""
        codes = tokens - self.code_token_ids[:, 0]
        is_code = ((codes >= 0) & (codes < CODEBOOK_SIZE)).all(-1)
        return np.where(is_code, pack(codes), -1)


def pack(semantic_ids: np.ndarray) -> np.ndarray:
    """(..., num_codebooks) to one int64 each."""
    keys = np.zeros(semantic_ids.shape[:-1], dtype=np.int64)
    for level in range(semantic_ids.shape[-1]):
        keys = keys * CODEBOOK_SIZE + semantic_ids[..., level]
    return keys


def make_prompts(settings: Settings, history: int, batch_size: int) -> list[list[int]]:
    """Wording and a random history of each user: the same ones at every catalog size, items of all of them."""
    known = BenchmarkCatalog(settings, min(settings.catalog_sizes)).item_tokens
    rng = np.random.default_rng([settings.seed, history, batch_size])
    return [[*WORDING, *known[rng.integers(0, len(known), history)].flatten().tolist()] for _ in range(batch_size)]
