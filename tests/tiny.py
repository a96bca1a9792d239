"""Tiny models and catalogues, built in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MT5Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    T5Config,
)

from llmrec.catalog import Catalog
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.trie import Trie
from llmrec.vocabulary import ItemVocabulary


def random_semantic_ids(num_items: int, codebook_sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Unique random IDs: int32 of shape (num_items, num_codebooks)."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(codebook_sizes)), size=num_items, replace=False)
    return np.stack(np.unravel_index(flat, codebook_sizes), axis=1).astype(np.int32)


def make_catalog(
    num_items: int = 30, codebook_sizes: tuple[int, ...] = (4, 4, 4), titles: list[str] | None = None, seed: int = 0
) -> Catalog:
    titles = titles or [f"Film {number} of the sea" for number in range(num_items)]
    items = pa.table(
        {
            "item_id": [str(number) for number in range(num_items)],
            "title": titles,
            "description": [""] * num_items,
            "brand": [""] * num_items,
            "categories": [["Drama"]] * num_items,
        }
    )
    return Catalog(items, random_semantic_ids(num_items, codebook_sizes, seed), codebook_sizes)


def make_model(
    catalog: Catalog, architecture: str = "qwen3", seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ItemVocabulary]:
    """A random model over a tokenizer that has the catalogue's tokens."""
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    config = SmallModelConfig(
        architecture=architecture, hidden_size=32, num_layers=2, num_heads=2, head_dim=16, intermediate_size=64
    )
    model = build_small_model(config, tokenizer, seed).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # a fresh model is nearly uniform: spread its scores so that rankings are stable
    return model, tokenizer, vocabulary


def make_pretrained(folder: Path, architecture: str, texts: list[str]) -> Path:
    """A stand-in for a downloaded model: a folder named ``architecture`` with a tiny model and its tokenizer."""
    tokenizer = train_text_tokenizer(texts, 300)
    kind, _, tied = architecture.partition("_")
    config = SmallModelConfig(
        architecture=kind, hidden_size=64, num_layers=1, num_heads=2, head_dim=32, intermediate_size=64
    )
    model = build_small_model(config, tokenizer, 0)
    if tied == "untied":
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() + 0.1)
    model.save_pretrained(folder / architecture)
    tokenizer.save_pretrained(folder / architecture)
    return folder / architecture


def make_device_trie(catalog: Catalog, vocabulary: ItemVocabulary) -> DeviceTrie:
    return DeviceTrie(Trie.from_semantic_ids(catalog.semantic_ids), vocabulary.code_token_ids)


def _configs() -> dict[str, PreTrainedConfig]:
    common = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "max_position_embeddings": 4096,
    }
    t5 = {"vocab_size": 320, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    t5 |= {"eos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 1}
    both = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    return {
        "qwen3": Qwen3Config(**common, tie_word_embeddings=True),
        "qwen3_untied": Qwen3Config(**common, tie_word_embeddings=False),
        "llama": LlamaConfig(**common, tie_word_embeddings=True),
        "llama_untied": LlamaConfig(**common, tie_word_embeddings=False),
        "gemma": GemmaConfig(**common),
        "gemma2": Gemma2Config(**common, **both),
        "gemma3": Gemma3TextConfig(**common, **both),
        "mistral_window": MistralConfig(**common, sliding_window=4),
        "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, eos_token_id=0, bos_token_id=0),
        "lfm2": Lfm2Config(**common, layer_types=["conv", "full_attention"]),  # convolutions: caches are copied
        "t5": T5Config(**t5),
        "t5_untied": T5Config(**t5, tie_word_embeddings=False),
        "mt5_gated": MT5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    }


ARCHITECTURES = tuple(_configs())


def make_architecture(name: str, seed: int = 0) -> tuple[PreTrainedModel, DeviceTrie]:
    """A random model of 320 tokens of one of ``ARCHITECTURES``, and a catalogue of 30 items over its last 12."""
    torch.manual_seed(seed)
    config = _configs()[name]
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    trie = Trie.from_semantic_ids(random_semantic_ids(30, (4, 4, 4)))
    return model, DeviceTrie(trie, np.arange(308, 320).reshape(3, 4))
