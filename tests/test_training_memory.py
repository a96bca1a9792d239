"""The computed memory of training: parameters and activations are those of the real model, and the parts add up."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from benchmarks.training_gpu import training_flops
from benchmarks.training_measure import Counts
from benchmarks.training_memory import MODES, SHAPES, Shape, smallest_card, training_memory


def _config(shape: Shape) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        model = Qwen3ForCausalLM(_config(SHAPES[name]))
    assert SHAPES[name].parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("float32_weights", [False, True])
def test_a_layer_keeps_for_backward_what_is_computed(float32_weights: bool) -> None:
    shape = Shape(layers=2, hidden=256, intermediate=640, heads=4, kv_heads=2, vocabulary=64)
    tokens = 512
    kept = [_saved_bytes(Shape(layers, **_rest(shape)), float32_weights, tokens) for layers in (1, 2)]
    copies = 2 * shape.layer_parameters if float32_weights else 0  # autocast's, which are among the weights
    assert kept[1] - kept[0] - copies == pytest.approx(tokens * shape.layer_bytes(float32_weights), rel=0.01)


def test_the_work_counted_is_that_of_the_model() -> None:
    shape = Shape(layers=2, hidden=64, intermediate=160, heads=4, kv_heads=2, vocabulary=96)
    model, tokens = Qwen3ForCausalLM(_config(shape)), torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    counts = Counts(examples=2, tokens=64, positions=64, label_tokens=64, squares=2 * 32**2)
    by_module = counter.get_flop_counts()["Global"]
    matrices = sum(by_module[operation] for operation in by_module if "attention" not in str(operation))
    no_attention = training_flops(model.config, Counts(**{**vars(counts), "squares": 0}), frozen=False)
    # the gradient of the embedding's output goes no further
    assert matrices == pytest.approx(no_attention, rel=0.01)
    causal = training_flops(model.config, counts, frozen=False) - no_attention
    assert causal == 3 * 2 * (4 * 32**2 * 4 * 128 * 2) / 2  # of two matrices: 2 examples, 4 heads of 128, 2 layers


def test_checkpointing_and_sharing_only_take_away_and_a_card_that_is_too_small_is_not_named() -> None:
    for shape in SHAPES.values():
        for mode in MODES:
            plain, checkpointed = (training_memory(shape, mode, 4096, flag) for flag in (False, True))
            assert checkpointed.total < plain.total
            card = smallest_card(checkpointed)
            assert card is None or checkpointed.total <= 0.9 * card * 1e9
        totals = {mode: training_memory(shape, mode, 4096, True).total for mode in MODES}
        assert totals["lora_4bit"] < totals["lora"] < totals["full"]
        assert totals["zero3"] < totals["zero2"] < totals["full"]


def _rest(shape: Shape) -> dict[str, int | bool]:
    return {name: value for name, value in vars(shape).items() if name != "layers"}


def _saved_bytes(shape: Shape, float32_weights: bool, tokens: int) -> int:
    """Of different tensors that autograd keeps in a forward pass, weights apart."""
    model = Qwen3Model(_config(shape)).to(torch.float32 if float32_weights else torch.bfloat16)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for pointer, size in storages.items() if pointer not in weights)
