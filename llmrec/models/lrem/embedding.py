"""Embeddings of a causal language model: the last layer's hidden state at the embedding token, of length 1."""

import inspect
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

IGNORED_LABEL = -100


def add_embeddings(model: PreTrainedModel) -> None:
    """Let ``model(input_ids=..., lengths=..., ...)`` return embeddings; without ``lengths`` the forward is its own.

    Takes what ``embed_batch`` takes, and returns a dictionary: ``embeddings`` and ``text_loss``. Wrappers for many
    processes and adapters stay around the model, which a function beside it would pass by.
    """
    forward = model.forward

    def embedding_forward(
        self: PreTrainedModel,
        input_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        rows_at_a_time: int | None = None,
        **kwargs: Any,  # PEFT passes every argument that a causal model may have
    ) -> Any:
        if lengths is None or input_ids is None:
            return forward(input_ids=input_ids, labels=labels, **kwargs)
        embeddings, text_loss = embed_batch(self, input_ids, lengths, labels, rows_at_a_time)
        return {"embeddings": embeddings, "text_loss": text_loss}

    # generate looks there for what the model takes: positions, how many logits
    embedding_forward.__signature__ = _with_embeddings(inspect.signature(forward))  # type: ignore[attr-defined]
    model.forward = MethodType(embedding_forward, model)


def _with_embeddings(own: inspect.Signature) -> inspect.Signature:
    """The signature of a function that takes ``self`` and the arguments of ``add_embeddings`` beside its own."""
    last = [one for one in own.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    first = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    new = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("lengths", "rows_at_a_time")
    ]
    return inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *first, *new, *last])


def embed_batch(
    model: PreTrainedModel,
    input_ids: Tensor,
    lengths: Tensor,
    labels: Tensor | None = None,
    rows_at_a_time: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings at the last token of each sequence and, from the same pass, the loss of the text before it.

    With ``rows_at_a_time`` the activations of a few sequences are alive at a time: each part is computed again in the
    backward pass. This is gradient caching (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup, 2021) by way of torch's checkpointing, so that what is trained is the loss of the whole batch.

    Args:
        model: causal; padding on the right is never seen by what stands before it, so there is no mask.
        input_ids: int64 of shape (num_sequences, longest).
        lengths: tokens of each sequence, int64 of shape (num_sequences,).
        labels: as ``input_ids``, -100 where there is no loss; None for none at all.
        rows_at_a_time: sequences of one part; None takes all together.

    Returns:
        Float32 of shape (num_sequences, hidden size), rows of length 1; and the summed cross-entropy of the labels,
        float32 of shape ().
    """
    if rows_at_a_time is None or len(input_ids) <= rows_at_a_time:
        return _embed_part(model, input_ids, lengths, labels)
    # sequences of about the same length share a part, which is cut to its longest
    order = lengths.argsort()
    vectors, losses = [], []
    for rows in order.split(rows_at_a_time):
        part = (input_ids[rows], lengths[rows], None if labels is None else labels[rows])
        vector, loss = checkpoint(_embed_part, model, *part, use_reentrant=False)
        vectors.append(vector)
        losses.append(loss)
    return torch.cat(vectors)[order.argsort()], torch.stack(losses).sum()


def _embed_part(
    model: PreTrainedModel, input_ids: Tensor, lengths: Tensor, labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    longest = int(lengths.max())
    hidden = model.get_decoder()(input_ids=input_ids[:, :longest], use_cache=False).last_hidden_state
    rows = torch.arange(len(hidden), device=hidden.device)
    vectors = nn.functional.normalize(hidden[rows, lengths - 1].float(), dim=-1)
    if labels is None:
        return vectors, vectors.new_zeros(())
    targets = labels[:, 1:longest]
    wanted = targets != IGNORED_LABEL
    logits = model.get_output_embeddings()(hidden[:, :-1][wanted]).float()
    return vectors, nn.functional.cross_entropy(logits, targets[wanted], reduction="sum")
