"""Checkpoints on disk and on the Hub, and the model card that goes with them."""

from llmrec.hub.checkpoint import (
    LREM,
    SETREC,
    Checkpoint,
    load_checkpoint,
    push_to_hub,
    resolve_checkpoint,
    save_checkpoint,
    save_fusion,
)
from llmrec.hub.model_card import save_model_card
from llmrec.hub.search_card import save_search_card

__all__ = [
    "LREM",
    "SETREC",
    "Checkpoint",
    "load_checkpoint",
    "push_to_hub",
    "resolve_checkpoint",
    "save_checkpoint",
    "save_fusion",
    "save_model_card",
    "save_search_card",
]
