"""Small catalogues for the item tokenizer's tests."""

import numpy as np
import pytest

from llmrec.item_tokenizer import ItemTokenizerConfig


@pytest.fixture
def small() -> ItemTokenizerConfig:
    """Three levels of eight codes, over all dimensions of the small embeddings below."""
    return ItemTokenizerConfig(num_codebooks=3, codebook_size=8, device="cpu")


@pytest.fixture
def embeddings() -> np.ndarray:
    """200 items around ten centres: enough to collide at 8 x 8 x 8 codes."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((10, 12))
    return (centres[rng.integers(10, size=200)] + 0.2 * rng.standard_normal((200, 12))).astype(np.float32)


def item_ids(count: int, prefix: str = "item") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]
