"""Thoughts of a model: keywords that it writes behind a query, never longer than the cap."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from llmrec.models.lrem.prompts import LremPrompts


@torch.no_grad()
def think(
    model: PreTrainedModel,
    prompts: LremPrompts,
    queries: Sequence[Sequence[int]],
    batch_size: int,
    temperature: float = 0.0,
) -> list[list[int]]:
    """What the model writes behind each query, from the opening of the thought to its end or its cap.

    The thought is opened for the model, and closed for it where it does not do so (``LremPrompts.closed``).

    Args:
        model: causal.
        prompts: its prompts.
        queries: token ids, as ``LremPrompts.query`` gives them.
        batch_size: queries at a time.
        temperature: 0 takes the likeliest token each time, any other value samples.

    Returns:
        For each query the token ids of its thought, without control tokens.
    """
    config = GenerationConfig(
        max_new_tokens=prompts.max_thought_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        eos_token_id=prompts.end_token_ids,
        pad_token_id=prompts.tokenizer.pad_token_id,
    )
    order = sorted(range(len(queries)), key=lambda row: -len(queries[row]))
    thoughts: list[list[int]] = [[] for _ in queries]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = len(queries[rows[0]]) + 1
        padded = torch.full((len(rows), longest), prompts.tokenizer.pad_token_id)
        seen = torch.zeros_like(padded)
        for place, row in enumerate(rows):
            ids = torch.tensor([*queries[row], prompts.tokens.think])
            padded[place, longest - len(ids) :] = ids
            seen[place, longest - len(ids) :] = 1
        device = model.device
        inputs = {"input_ids": padded.to(device), "attention_mask": seen.to(device)}
        # weights are whole here, and other processes may have more or fewer queries
        written = model.generate(**inputs, generation_config=config, synced_gpus=False)
        for row, ids in zip(rows, written[:, longest:].tolist(), strict=True):
            ends = [place for place, token_id in enumerate(ids) if token_id in prompts.end_token_ids]
            thoughts[row] = ids[: ends[0]] if ends else ids
    return thoughts
