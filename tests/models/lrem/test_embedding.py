"""Embeddings: padding and parts change nothing, and gradients of parts are those of the whole batch."""

import numpy as np
import pytest
import torch

from llmrec.models.lrem import add_embeddings, embed_batch
from llmrec.models.lrem.searcher import embed_sequences, padded
from llmrec.training.contrastive import info_nce
from tests.models.lrem.conftest import LINES


def _batch(prompts):
    sequences = [[*prompts.query(line), *prompts.thought(line)] for line in LINES[:6]]
    sequences += [prompts.item(line) for line in LINES[:6]]
    input_ids, lengths = padded(sequences)
    labels = torch.full_like(input_ids, -100)
    for row in range(6):
        start = len(prompts.query(LINES[row]))
        labels[row, start : lengths[row]] = input_ids[row, start : lengths[row]]
    return sequences, input_ids, lengths, labels


def test_an_embedding_is_the_last_state_of_its_sequence_alone(prompts, model) -> None:
    sequences, input_ids, lengths, _ = _batch(prompts)
    together = embed_batch(model, input_ids, lengths)[0]
    for row, sequence in enumerate(sequences):
        hidden = model(torch.tensor([sequence]), output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(together[row], hidden / hidden.norm(), atol=1e-5, rtol=1e-4)
    assert np.allclose(embed_sequences(model, sequences, 5), together.detach().numpy(), atol=1e-5)


def test_the_text_loss_is_the_summed_cross_entropy_of_the_labels(prompts, model) -> None:
    _, input_ids, lengths, labels = _batch(prompts)
    loss = embed_batch(model, input_ids, lengths, labels)[1]
    logits = model(input_ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("rows_at_a_time", [1, 5, 12])
def test_gradients_of_parts_are_those_of_the_whole_batch(prompts, model, rows_at_a_time) -> None:
    _, input_ids, lengths, labels = _batch(prompts)
    gradients = []
    for rows in (None, rows_at_a_time):
        model.zero_grad()
        vectors, text = embed_batch(model, input_ids, lengths, labels, rows)
        loss = 0.1 * text / 6 + info_nce(vectors[:6], vectors[6:], torch.arange(6), 0.05)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_a_model_with_embeddings_still_has_its_own_forward(prompts, model) -> None:
    _, input_ids, lengths, labels = _batch(prompts)
    before = model(input_ids).logits
    add_embeddings(model)
    assert torch.equal(model(input_ids).logits, before)
    outputs = model(input_ids=input_ids, lengths=lengths, labels=labels)
    vectors, text = embed_batch(model, input_ids, lengths, labels)
    assert torch.equal(outputs["embeddings"], vectors)
    assert torch.equal(outputs["text_loss"], text)
