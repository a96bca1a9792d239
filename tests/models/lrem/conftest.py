"""A tiny LREM over sixteen items, with random weights."""

import pytest
import torch
from transformers import PreTrainedModel, Qwen3ForCausalLM

from llmrec.models.from_config import SmallModelConfig, small_model_config, train_text_tokenizer
from llmrec.models.lrem import LremPrompts

WORDS = ("red", "blue", "warm", "cold", "round", "flat", "loud", "quiet")
LINES = [f"Thing {number} | {WORDS[number % 8]}, {WORDS[(number // 2) % 8]}" for number in range(16)]
SMALL = SmallModelConfig(
    hidden_size=16, num_layers=2, num_heads=2, head_dim=8, intermediate_size=32, text_vocab_size=320
)


def make_prompts(**options: object) -> LremPrompts:
    tokenizer = train_text_tokenizer(LINES, SMALL.text_vocab_size)
    LremPrompts.add_to(tokenizer)
    return LremPrompts(tokenizer, **options)


@pytest.fixture
def prompts() -> LremPrompts:
    return make_prompts()


@pytest.fixture
def model(prompts: LremPrompts) -> PreTrainedModel:
    config = small_model_config(SMALL, prompts.tokenizer)
    # a tied head would repeat the token before it, which ends a thought
    config.tie_word_embeddings, config.initializer_range = False, 0.3
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()
