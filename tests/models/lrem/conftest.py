"""A tiny LREM over sixteen items, with random weights."""

import pytest
from transformers import PreTrainedModel

from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
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
    return build_small_model(SMALL, prompts.tokenizer, 0).eval()
