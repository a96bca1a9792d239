"""Lists for many users: batches of similar length, the right search for the model, and progress."""

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llmrec.decoding.beam_search import beam_search
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.generate import generate_items


def rank_items(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: DeviceTrie,
    num_beams: int,
    k: int,
    exclude: Sequence[Sequence[int]] | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> np.ndarray:
    """Rank catalogue items for each prompt.

    Decoder-only models share one prefix among the beams (``beam_search``); encoder-decoders, and models whose attention
    does not take a 4-D mask, go through ``generate``.
    A model in training mode is put into evaluation mode for the duration.

    Args:
        model: fine-tuned model.
        prompts: token ids for each user.
        trie: the catalogue's semantic IDs on the model's device.
        num_beams: search width.
        k: list length, at most ``num_beams``.
        exclude: for each user, item indices that must not be returned.
        batch_size: users at a time.
        progress: show a bar.

    Returns:
        int64 array of shape (num_users, k): item indices, best first; -1 where the catalogue had no more to give.
    """
    search = beam_search if _takes_tree_mask(model) else generate_items
    ranked = np.full((len(prompts), k), -1, dtype=np.int64)
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    was_training = model.training
    model.eval()
    try:
        for start in tqdm(range(0, len(order), batch_size), desc="Ranking", unit="batch", disable=not progress):
            rows = order[start : start + batch_size]
            excluded = None if exclude is None else [exclude[row] for row in rows]
            lists = search(model, [prompts[row] for row in rows], trie, num_beams, k, excluded)
            ranked[rows] = lists.items.cpu().numpy()
    finally:
        model.train(was_training)
    return ranked


def _takes_tree_mask(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    if config.is_encoder_decoder:
        return False
    layers = getattr(config, "layer_types", None) or []
    return config._attn_implementation in ("sdpa", "eager") and all(layer == "full_attention" for layer in layers)
