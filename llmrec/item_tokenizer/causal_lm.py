"""Text embeddings from a causal language model: masked mean of the last hidden states (LC-Rec, arXiv 2311.09049)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def causal_lm_embedder(
    path: str, batch_size: int, device: str | None, max_length: int, revision: str | None
) -> Callable[[Sequence[tuple[str, ...]]], np.ndarray]:
    """Load a causal LM without its head; return a function from field tuples to float32 (num_items, dim).

    Args:
        path: a folder or a Hub name.
        batch_size: texts in one forward pass.
        device: a torch device; ``None`` takes a GPU where there is one.
        max_length: tokens of one text at most.
        revision: of a model on the Hub.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    model = AutoModel.from_pretrained(path, revision=revision, dtype="auto")
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def embed(items: Sequence[tuple[str, ...]]) -> np.ndarray:
        return mean_of_fields(items, model, tokenizer, batch_size, max_length)

    return embed


def mean_of_fields(
    items: Sequence[tuple[str, ...]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    max_length: int,
) -> np.ndarray:
    """Each non-empty field of an item encoded by itself, then their mean: float32 (num_items, dim).

    An item whose fields are all empty gets zeros. Texts go through the model by length, so that little is padded.
    """
    owners = [row for row, fields in enumerate(items) for field in fields if field.strip()]
    texts = [field for fields in items for field in fields if field.strip()]
    order = np.argsort([len(text) for text in texts], kind="stable")
    dim = model.config.get_text_config().hidden_size
    sums, counts = np.zeros((len(items), dim), dtype=np.float32), np.zeros((len(items), 1), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        vectors = mean_pooled([texts[index] for index in batch], model, tokenizer, max_length)
        rows = [owners[index] for index in batch]
        np.add.at(sums, rows, vectors)
        np.add.at(counts, rows, 1)
    return sums / np.maximum(counts, 1)


@torch.inference_mode()
def mean_pooled(
    texts: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> np.ndarray:
    """Mean over each text's tokens of the last hidden states: float32 (batch, dim); padding does not count."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokens = tokenizer(
        texts, padding=True, padding_side="right", truncation=True, max_length=max_length, return_tensors="pt"
    ).to(model.device)
    hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state.float()
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    return ((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).cpu().numpy()
