"""One forward pass for a prompt, and the logits of a few tokens behind it: candidates read off their letters."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from llmrec.decoding.beam_search import searching
from llmrec.decoding.model_outputs import pad_prompts


class LetterLogits:
    """Reads a decoder-only model's logits of given tokens, right behind prompts.

    What all prompts begin with runs once, and its cache is shared by all batches.

    Args:
        model: decoder-only; adapters may be active in it.
        token_ids: tokens whose logits are read.
    """

    def __init__(self, model: PreTrainedModel, token_ids: Sequence[int]) -> None:
        if model.config.is_encoder_decoder:
            raise ValueError("Letters are read behind a prompt: that needs a decoder-only model.")
        self.model = model
        self._token_ids = torch.tensor(token_ids, device=model.device)

    def __call__(self, prompts: Sequence[Sequence[int]], batch_size: int, progress: bool = False) -> Tensor:
        """Logits, float32 of shape (num_prompts, num_tokens).

        Args:
            prompts: token ids, one or more in each.
            batch_size: prompts in one forward pass.
            progress: show a bar.

        Raises:
            ValueError: if a prompt is empty, or longer than the model's positions.
        """
        self._check(prompts)
        logits = torch.empty(len(prompts), len(self._token_ids), device=self.model.device)
        # one token of each prompt is left to read from
        shared = _common_start([prompt[:-1] for prompt in prompts])
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        with searching(self.model):
            cache = self._read(shared) if shared else None
            starts = range(0, len(order), batch_size)
            for start in tqdm(starts, desc="Ranking", unit="batch", disable=not progress):
                rows = order[start : start + batch_size]
                rest = [list(prompts[row][len(shared) :]) for row in rows]
                logits[rows] = self._last(rest, cache)
        return logits.cpu()

    def _read(self, tokens: Sequence[int]) -> DynamicCache:
        ids = torch.tensor([tokens], device=self.model.device)
        return self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def _last(self, rest: list[list[int]], cache: DynamicCache | None) -> Tensor:
        # padded behind: what is read is before the padding, whose place no window of attention counts
        ids, _ = pad_prompts(rest, self.model.device, left=False)
        lasts, place = torch.tensor([len(tokens) - 1 for tokens in rest]).unique(return_inverse=True)
        copied = copy.deepcopy(cache)
        if copied is not None:
            copied.batch_repeat_interleave(len(rest))
        output = self.model(
            input_ids=ids,
            past_key_values=copied,
            use_cache=copied is not None,
            logits_to_keep=lasts.to(self.model.device),
        )
        return output.logits[torch.arange(len(rest)), place][:, self._token_ids].float()

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        lengths = [len(prompt) for prompt in prompts]
        if not all(lengths):
            raise ValueError(f"Prompt {lengths.index(0)} is empty: each needs one token or more.")
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and max(lengths, default=0) > positions:
            raise ValueError(
                f"Prompt {lengths.index(max(lengths))} has {max(lengths)} tokens, and the model {positions} positions: "
                "shorten the history, or take fewer candidates."
            )


def _common_start(rows: Sequence[Sequence[int]]) -> Sequence[int]:
    """What all rows begin with; what the first and the last of them in order share, all share."""
    if not rows:
        return ()
    ordered = sorted(tuple(row) for row in rows)
    first, last = ordered[0], ordered[-1]
    length = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if length is None else length]
