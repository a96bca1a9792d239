"""Cross-entropy of target tokens without the logits of a whole batch, for encoder-decoders (TRL's is for decoders)."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from llmrec.training.examples import IGNORED_LABEL

#: Targets whose logits exist at a time; 1,024 of them over 32,000 tokens are 131 MB in float32.
_TARGETS_AT_A_TIME = 1024


def add_target_loss(model: PreTrainedModel) -> None:
    """Let ``model(..., labels=labels, targets_only=True)`` return the summed loss of its targets.

    The sum is a dictionary's ``loss``, float32 of shape (). Without ``targets_only`` the forward is the model's own.
    The head must be the last thing that happens to hidden states, as in T5 and its kin.
    """
    forward = model.forward

    def targets_forward(self: PreTrainedModel, *args: Any, targets_only: bool = False, **kwargs: Any) -> Any:
        if not targets_only:
            return forward(*args, **kwargs)
        labels = kwargs.pop("labels")
        if "decoder_input_ids" not in kwargs:
            kwargs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
        head = self.get_output_embeddings()
        with _passing_through(head):
            hidden = forward(*args, **kwargs, use_cache=False).logits
        targets = labels != IGNORED_LABEL
        return {"loss": _summed_loss(head, hidden[targets], labels[targets])}

    model.forward = MethodType(targets_forward, model)


@contextmanager
def _passing_through(head: nn.Module) -> Iterator[None]:
    """The head returns the hidden states it is given, scaled as the model scales them for it."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


def _summed_loss(head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of ``labels`` (targets,) given ``hidden`` (targets, hidden size), a chunk at a time."""

    def chunk_loss(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")

    # the logits of a chunk are computed again in the backward pass, so that none are kept
    losses = [
        checkpoint(chunk_loss, chunk, chunk_labels, use_reentrant=False)
        for chunk, chunk_labels in zip(hidden.split(_TARGETS_AT_A_TIME), labels.split(_TARGETS_AT_A_TIME), strict=True)
    ]
    return torch.stack(losses).sum()
