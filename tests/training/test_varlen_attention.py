"""The varlen attention beside sdpa: the same model without packing, boundaries where there is packing."""

import itertools

import numpy as np
import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from llmrec.training import varlen_attention
from llmrec.training.varlen_attention import VARLEN, flattens_batches, register_varlen_attention
from tests.tiny import make_architecture

register_varlen_attention()


def _oracle(query, key, value, starts, starts_k, longest, longest_k, *, scale, window_size, enable_gqa):
    """What the kernel computes, one example at a time: it needs a GPU, this does not."""
    assert torch.equal(starts, starts_k)
    assert longest == longest_k == int(starts.diff().max())
    outputs = []
    for start, end in itertools.pairwise(starts):
        states = [tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value)]
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        mask = (distance >= 0) & ((distance <= window_size[0]) if window_size[0] >= 0 else True)
        attended = torch.nn.functional.scaled_dot_product_attention(
            *states, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "mistral_window"])
def test_packed_examples_score_as_they_do_alone(architecture, monkeypatch) -> None:
    monkeypatch.setattr(varlen_attention, "varlen_attn", _oracle)
    model, _ = make_architecture(architecture)
    rng = np.random.default_rng(0)
    examples = [rng.integers(2, 300, size).tolist() for size in (5, 9, 3)]
    rows = [
        {"input_ids": examples[0] + examples[1], "seq_lengths": [5, 9]},
        {"input_ids": examples[2], "seq_lengths": [3]},
    ]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    batch.pop("labels")
    alone = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in examples])
    model.set_attn_implementation(VARLEN)
    packed = model(**batch, use_cache=False).logits[0]
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_padded_batches_and_generation_are_sdpas() -> None:
    model, _ = make_architecture("qwen3")
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    model.set_attn_implementation(VARLEN)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False), expected)
    single = model.generate(ids[1:], max_new_tokens=4, do_sample=False)
    assert torch.equal(single, expected[1:])


def test_a_packed_sequence_without_its_boundaries_is_an_error() -> None:
    model, _ = make_architecture("qwen3")
    model.set_attn_implementation(VARLEN)
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        model(input_ids=torch.tensor([[5, 6, 7, 8]]), position_ids=torch.tensor([[0, 1, 0, 1]]), use_cache=False)


def test_which_attentions_take_a_batch_as_one_sequence() -> None:
    assert flattens_batches(VARLEN)
    assert flattens_batches("flash_attention_2")
    assert not flattens_batches("sdpa")
    assert not flattens_batches(None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a CUDA GPU")
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "mistral_window"])
def test_the_kernel_scores_and_learns_as_sdpa_does(architecture) -> None:
    model, _ = make_architecture(architecture)
    model.to("cuda", torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.div_(3.0)  # bf16 has three digits: keep scores small
    rng = np.random.default_rng(0)
    lengths = [33, 17, 40]
    examples = [rng.integers(2, 300, size).tolist() for size in lengths]
    row = {"input_ids": [token for ids in examples for token in ids], "seq_lengths": lengths}
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([row])
    labels = batch.pop("labels").cuda()
    batch = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    alone = torch.cat([model(input_ids=torch.tensor([ids]).cuda()).logits[0] for ids in examples])
    model.set_attn_implementation(VARLEN)
    packed = model(**batch, use_cache=False).logits[0]
    torch.testing.assert_close(packed, alone, rtol=0.05, atol=0.05)
    weight = model.get_input_embeddings().weight
    gradients = []
    for logits in (packed, alone):
        loss = torch.nn.functional.cross_entropy(logits[:-1].float(), labels[0, 1:], ignore_index=-100)
        gradients.append(torch.autograd.grad(loss, weight)[0].float())
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[1].norm()
