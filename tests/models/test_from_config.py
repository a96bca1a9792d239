"""Small models from a config: their dropout, which for Qwen3 is ours."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrec.models.from_config import (
    SmallModelConfig,
    add_dropout,
    build_small_model,
    small_model_config,
    train_text_tokenizer,
)

TOKENS = torch.tensor([[5, 6, 7, 8]])


def make_small(architecture: str, dropout: float) -> PreTrainedModel:
    config = SmallModelConfig(architecture, 32, 2, 2, 16, 64, dropout, 300)
    return build_small_model(config, train_text_tokenizer(["two words", "more words"], 300), seed=0)


def logits(model: PreTrainedModel) -> torch.Tensor:
    inputs = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(TOKENS, **inputs).logits


def test_feed_forward_layers_grow_with_the_width() -> None:
    tokenizer = train_text_tokenizer(["two words"], 300)
    assert small_model_config(SmallModelConfig("qwen3", hidden_size=160), tokenizer).intermediate_size == 640
    assert small_model_config(SmallModelConfig("t5", hidden_size=160), tokenizer).d_ff == 640
    assert small_model_config(SmallModelConfig("qwen3", hidden_size=32), tokenizer).intermediate_size == 512
    assert small_model_config(SmallModelConfig("t5", 96, intermediate_size=100), tokenizer).d_ff == 100


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
def test_dropout_is_drawn_in_training_only(architecture: str) -> None:
    plain, dropped = make_small(architecture, 0.0), make_small(architecture, 0.5)
    torch.testing.assert_close(logits(plain.eval()), logits(dropped.eval()))
    first, second = logits(dropped.train()), logits(dropped)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(logits(plain.train()), logits(plain))


def test_every_block_of_qwen3_has_dropout() -> None:
    model = make_small("qwen3", 0.999999).train()
    with torch.no_grad():
        states = model.model(TOKENS, output_hidden_states=True).hidden_states
    assert all(not state.any() for state in states)


def test_setrecs_small_backbone_has_it_too() -> None:
    model = make_small("qwen3", 0.0)
    add_dropout(model.model, 0.999999)
    embeddings = torch.ones(1, 4, 32)
    with torch.no_grad():
        states = model.model.train()(inputs_embeds=embeddings, output_hidden_states=True).hidden_states
    # what is given as embeddings passes; no block adds anything to it
    assert all(torch.equal(state, embeddings) for state in states[:-1])


def test_a_saved_model_has_no_dropout_left(tmp_path: Path) -> None:
    model = make_small("qwen3", 0.5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    torch.testing.assert_close(logits(loaded), logits(model.eval()))
