"""Log-probabilities of many completions of one prompt, with the prompt in the batch once.

TRL repeats the prompt before each completion of a group: a history of 50 items before each answer of one. Here a group
is one sequence: the prompt, then every completion, which sees the prompt and itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel


class SharedPrompts(NamedTuple):
    """Groups as sequences of ``prompt - 1 + group * completion`` tokens; a completion starts with the prompt's last.

    Attributes:
        input_ids: int64 (groups, width).
        position_ids: int64 of the same shape.
        visible: bool (groups, width, width): which column a row sees.
        labels: int64 (groups, width): the token that follows, -100 where none is scored.
        places: int64 (completions,): where a completion's first token is scored, in a flattened ``labels``.
    """

    input_ids: Tensor
    position_ids: Tensor
    visible: Tensor
    labels: Tensor
    places: Tensor


def takes_shared_prompts(model: PreTrainedModel) -> bool:
    """Whether a model's attention takes a mask of shape (groups, 1, width, width) for all its layers."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if not getattr(config, "layer_types", None) else None
    return config._attn_implementation == "sdpa" and kinds == {"full_attention"} and window is None


def share_prompts(input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> SharedPrompts:
    """Put completions of the same prompt into one sequence.

    Args:
        input_ids: int64 (completions, prompt + completion): left-padded prompts, right-padded completions.
        attention_mask: of the same shape, 1 on real tokens.
        completion_length: columns of a completion.
    """
    length = completion_length
    mask = attention_mask.bool()
    prompt_ids, prompt_mask = input_ids[:, :-length], mask[:, :-length]
    keys = torch.cat([prompt_ids.masked_fill(~prompt_mask, 0), prompt_mask.long()], dim=1)
    unique, group = keys.unique(dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    counts = group.bincount()
    starts = counts.cumsum(0) - counts
    slot = torch.empty_like(group)
    slot[order] = torch.arange(len(group), device=group.device) - starts[group[order]]
    width = prompt_ids.shape[1]
    size = int(counts.max())
    num_groups = len(unique)

    own_ids, own_mask = unique[:, :width], unique[:, width:].bool()
    # a completion's inputs: the prompt's last token, then all of its own but the last
    inputs = input_ids.new_zeros(num_groups, size, length)
    inputs[group, slot] = input_ids[:, width - 1 : -1]
    labels = input_ids.new_full((num_groups, size, length), -100)
    labels[group, slot] = input_ids[:, width:].masked_fill(~mask[:, width:], -100)
    prompt_lengths = own_mask.sum(1)
    positions = (own_mask.long().cumsum(1) - 1).clamp(min=0)[:, :-1]
    completion_positions = (prompt_lengths - 1)[:, None] + torch.arange(length, device=group.device)
    return SharedPrompts(
        torch.cat([own_ids[:, :-1], inputs.flatten(1)], dim=1),
        torch.cat([positions, completion_positions.repeat(1, size)], dim=1),
        _visible(own_mask[:, :-1], size, length),
        torch.cat([torch.full_like(positions, -100), labels.flatten(1)], dim=1),
        group * (width - 1 + size * length) + width - 1 + slot * length,
    )


def _visible(prompt_mask: Tensor, size: int, length: int) -> Tensor:
    """Prompt tokens see the prompt up to themselves; a completion's see the prompt and their own up to themselves."""
    groups, width = prompt_mask.shape
    columns = torch.arange(width + size * length, device=prompt_mask.device)
    part = torch.where(columns < width, -1, (columns - width).div(length, rounding_mode="floor"))
    causal = columns[:, None] >= columns[None]
    visible = causal & ((part[None] == -1) | (part[:, None] == part[None]))
    shown = torch.cat([prompt_mask, prompt_mask.new_ones(groups, size * length)], dim=1)
    # padding sees itself, so that no row is empty
    return (visible & shown[:, None]) | torch.eye(len(columns), dtype=torch.bool, device=columns.device)
