"""Small language models built from a config, with a tokenizer trained on the catalogue's own text: no hub, no download.

A ``qwen3`` one makes the demo run on a laptop; a ``t5`` one trained on histories is the TIGER baseline
(arXiv 2305.05065), whose encoder-decoder has 4 + 4 layers of width 128 with 6 heads of 64.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

END_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"


@dataclass(frozen=True)
class SmallModelConfig:
    """Size of a model that is trained from scratch.

    Args:
        architecture: ``qwen3`` (decoder-only) or ``t5`` (encoder-decoder).
        hidden_size: width.
        num_layers: decoder layers; a T5 has as many in its encoder.
        num_heads: attention heads, each ``head_dim`` wide.
        head_dim: width of a head.
        intermediate_size: width of the feed-forward layers; None: four times ``hidden_size``, 512 at least.
        dropout: in training, of embeddings and of what each block adds to them; T5's is of attention weights too, which
            would halve the speed of Qwen3's attention on a CPU.
        text_vocab_size: size of the byte-level BPE for text, before item tokens.
    """

    architecture: Literal["qwen3", "t5"] = "qwen3"
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    head_dim: int = 32
    intermediate_size: int | None = None
    dropout: float = 0.0
    text_vocab_size: int = 1024


def train_text_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE trained on ``texts``; any string can be encoded, and nothing is ever unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN, PAD_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_TOKEN, pad_token=PAD_TOKEN, padding_side="left"
    )


def build_small_model(config: SmallModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A randomly initialised model over ``tokenizer``'s vocabulary, the same for the same seed."""
    set_seed(seed)
    model_config = small_model_config(config, tokenizer)
    if config.architecture == "t5":
        return T5ForConditionalGeneration(model_config)
    model = Qwen3ForCausalLM(model_config)
    add_dropout(model.model, config.dropout)
    return model


def add_dropout(backbone: Qwen3Model, dropout: float) -> None:
    """Dropout in training of embeddings and of what each block adds to them; nothing of it is saved.

    Hooks, since Qwen3 knows dropout of attention weights only. What is given as ``inputs_embeds`` passes by the first.
    """
    if not dropout:
        return
    blocks = [block for layer in backbone.layers for block in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    for module in (backbone.get_input_embeddings(), *blocks):
        module.register_forward_hook(partial(_drop, dropout))


def _drop(dropout: float, module: nn.Module, _: Any, output: Tensor) -> Tensor:
    return nn.functional.dropout(output, dropout, module.training)


def small_model_config(config: SmallModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """transformers' configuration of such a model."""
    intermediate_size = config.intermediate_size or max(512, 4 * config.hidden_size)
    if config.architecture == "qwen3":
        return Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            head_dim=config.head_dim,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=config.hidden_size,
        d_kv=config.head_dim,
        d_ff=intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout_rate=config.dropout,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
