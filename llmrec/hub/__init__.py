"""Checkpoints on disk and on the Hub, and the model card that goes with them."""

from llmrec.hub.checkpoint import SETREC, Checkpoint, load_checkpoint, push_to_hub, resolve_checkpoint, save_checkpoint
from llmrec.hub.model_card import save_model_card

__all__ = [
    "SETREC",
    "Checkpoint",
    "load_checkpoint",
    "push_to_hub",
    "resolve_checkpoint",
    "save_checkpoint",
    "save_model_card",
]
