"""Where the tokens of a batch stand and what they attend to: SETRec's sparse attention (arXiv 2502.10833, 3.2.2).

A row holds an instruction, a history, and one branch or more: each asks for the item after so many items of the
history. Since no item attends to a later one, the branches of all prefixes share one pass over the history, and each
computes what it would alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmrec.models.setrec.config import AttentionRule

#: The branch of tokens that belong to none: the instruction and the history.
_TRUNK = -1


@dataclass(frozen=True)
class SetLayout:
    """Tokens in order: instruction, items (each ``num_tokens``), the responses of all branches, their queries.

    Args:
        positions: int64 of shape (batch, length); the tokens of an item share one, and so do a branch's queries.
        allowed: bool of shape (batch, 1, length, length): whether the token of the row attends to that of the column.
        num_queries: tokens at the end that are queries, ``num_branches * num_tokens``.
    """

    positions: Tensor
    allowed: Tensor
    num_queries: int


def set_layout(
    history_lengths: Tensor,
    max_history: int,
    items_before: Tensor,
    num_tokens: int,
    instruction_length: int = 0,
    response_length: int = 0,
    rule: AttentionRule = "set",
) -> SetLayout:
    """Lay out a batch.

    ``set``: a token attends to itself, to the instruction and items before its own, and in a branch to the response
    before it; not to its siblings. ``causal``: to its siblings before it too. ``bidirectional``: everything but the
    queries attends to everything but the queries, and queries see each other.

    Args:
        history_lengths: int64 of shape (batch,); rows are padded at the end to ``max_history`` items.
        max_history: items of the longest history.
        items_before: int64 of shape (batch, num_branches): how many items a branch comes after; -1 for none.
        num_tokens: tokens of an item, and queries of a branch.
        instruction_length: tokens before the history.
        response_length: tokens of a branch before its queries.
        rule: which tokens a token attends to.

    Raises:
        ValueError: if ``bidirectional`` meets several branches, which would see what they are asked for.
    """
    batch, num_branches = items_before.shape
    if rule == "bidirectional" and num_branches > 1:
        raise ValueError(
            "attention_rule 'bidirectional' sees the whole history from everywhere, so a row can ask for one item "
            "only: train it with one example per prefix."
        )
    device = items_before.device
    item_of = torch.arange(max_history * num_tokens, device=device) // num_tokens
    token_of = torch.arange(max_history * num_tokens, device=device) % num_tokens
    instruction = torch.arange(instruction_length, device=device).expand(batch, -1)

    # Blocks are numbered in the order of attention; siblings share one, unless they see each other
    stride = num_tokens if rule == "causal" else 1
    item_blocks = instruction_length + item_of * stride + (token_of if rule == "causal" else 0)
    query_blocks = response_length + (torch.arange(num_tokens, device=device) if rule == "causal" else 0)
    branches = torch.arange(num_branches, device=device)

    response = _per_branch(batch, num_branches, torch.arange(response_length, device=device))
    queries = _per_branch(batch, num_branches, torch.zeros(num_tokens, dtype=torch.int64, device=device) + query_blocks)
    before_response = items_before.repeat_interleave(response_length, dim=1)
    before_query = items_before.repeat_interleave(num_tokens, dim=1)

    block = torch.cat([instruction, item_blocks.expand(batch, -1), response, queries], dim=1)
    branch = torch.cat(
        [
            torch.full_like(block[:, : instruction_length + len(item_of)], _TRUNK),
            branches.repeat_interleave(response_length).expand(batch, -1),
            branches.repeat_interleave(num_tokens).expand(batch, -1),
        ],
        dim=1,
    )
    # Of the trunk, a token sees the blocks below its limit
    limit = torch.cat(
        [
            block[:, : instruction_length + len(item_of)],
            instruction_length + before_response.clamp(min=0) * stride,
            instruction_length + before_query.clamp(min=0) * stride,
        ],
        dim=1,
    )
    real = torch.cat(
        [
            torch.ones_like(instruction, dtype=torch.bool),
            item_of < history_lengths[:, None],
            before_response >= 0,
            before_query >= 0,
        ],
        dim=1,
    )
    positions = torch.cat(
        [
            instruction,
            (instruction_length + item_of).expand(batch, -1),
            instruction_length + before_response.clamp(min=0) + response,
            instruction_length + before_query.clamp(min=0) + response_length,
        ],
        dim=1,
    )
    num_queries = num_branches * num_tokens
    if rule == "bidirectional":
        is_query = torch.zeros_like(real)
        is_query[:, real.shape[1] - num_queries :] = True
        allowed = real[:, None, :] & (~is_query[:, None, :] | is_query[:, :, None])
    else:
        trunk = (branch == _TRUNK)[:, None, :] & (block[:, None, :] < limit[:, :, None])
        same_branch = (branch[:, :, None] == branch[:, None, :]) & (branch != _TRUNK)[:, :, None]
        same_branch &= block[:, None, :] < block[:, :, None]
        allowed = real[:, None, :] & (trunk | same_branch)
    # padding, too, attends to itself: a row of attention without any entry is not a number
    allowed = allowed | torch.eye(block.shape[1], dtype=torch.bool, device=device)
    return SetLayout(positions, allowed[:, None], num_queries)


def _per_branch(batch: int, num_branches: int, values: Tensor) -> Tensor:
    return values.repeat(num_branches).expand(batch, -1)
