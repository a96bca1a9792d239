"""The language model under SETRec, run over embeddings with positions and masks of our own."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.models.setrec.attention import backend_mask
from llmrec.models.setrec.layout import SetLayout


def query_states(backbone: PreTrainedModel, embeddings: Tensor, layout: SetLayout) -> Tensor:
    """Last hidden states at the queries.

    A decoder-only model reads queries behind the history. T5 reads the history with its encoder and the queries with
    its decoder, one pass each.

    Args:
        backbone: without a language-modelling head.
        embeddings: of all tokens in the order of ``layout``, shape (batch, length, hidden_size).
        layout: their positions and mask.

    Returns:
        Shape (batch, num_queries, hidden_size).
    """
    if backbone.config.is_encoder_decoder:
        return _t5_states(backbone, embeddings, layout)
    mask = backend_mask(layout.allowed, backbone.config._attn_implementation, embeddings.dtype)
    states = backbone(
        inputs_embeds=embeddings, position_ids=layout.positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return states[:, -layout.num_queries :]


def _t5_states(backbone: Any, embeddings: Tensor, layout: SetLayout) -> Tensor:
    length = embeddings.shape[1] - layout.num_queries
    positions, allowed = layout.positions, layout.allowed
    read = positions[:, :length]
    bias = _position_bias(backbone.encoder, read[:, None, :] - read[:, :, None])
    history = _run_stack(backbone.encoder, embeddings[:, :length], allowed[:, :, :length, :length], bias)
    own = allowed[:, :, length:, length:]
    # queries have no order: every distance between them is 0
    zero = torch.zeros_like(own[:, 0], dtype=torch.int64)
    bias = _position_bias(backbone.decoder, zero)
    return _run_stack(backbone.decoder, embeddings[:, length:], own, bias, history, allowed[:, :, length:, :length])


def _position_bias(stack: Any, distances: Tensor) -> Tensor:
    """T5's relative bias, of the first block: (batch, num_heads, queries, keys).

    Args:
        stack: encoder or decoder.
        distances: position of the key minus that of the query, int64 of shape (batch, queries, keys).
    """
    attention = stack.block[0].layer[0].SelfAttention
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).permute(0, 3, 1, 2)


def _run_stack(
    stack: Any,
    embeddings: Tensor,
    allowed: Tensor,
    bias: Tensor,
    history: Tensor | None = None,
    history_allowed: Tensor | None = None,
) -> Tensor:
    """``T5Stack.forward``, which has no argument for positions or their bias."""
    backend = stack.config._attn_implementation
    mask = backend_mask(allowed, backend, embeddings.dtype)
    cross_mask = None if history_allowed is None else backend_mask(history_allowed, backend, embeddings.dtype)
    states, cross_bias = stack.dropout(embeddings), None
    if history is not None and backend == "flex_attention":
        # T5 would make one of batch size 1, and flex_attention read beyond it
        batch, num_queries = embeddings.shape[:2]
        cross_bias = embeddings.new_zeros(batch, stack.config.num_heads, num_queries, history.shape[1])
    for block in stack.block:
        states, _, cross_bias = block(states, mask, bias, history, cross_mask, cross_bias)
    return stack.dropout(stack.final_layer_norm(states))
