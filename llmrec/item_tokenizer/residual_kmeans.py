"""Residual k-means: k-means on the embeddings, then on what each level leaves over. The latent space is the input's."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.kmeans import kmeans
from llmrec.item_tokenizer.quantizer import Quantizer, row_chunks, squared_distances


class ResidualKMeans(Quantizer):
    """Codebooks found by k-means, one level after the other.

    Args:
        num_codebooks: levels.
        codebook_size: codes at each level.
        dim: width of the embeddings.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(num_codebooks, codebook_size, dim))

    def to_latents(self, embeddings: Tensor) -> Tensor:
        return embeddings

    def from_latents(self, latents: Tensor) -> Tensor:
        return latents

    @classmethod
    def fit(cls, embeddings: np.ndarray, config: ItemTokenizerConfig, device: torch.device) -> "ResidualKMeans":
        """Fit on (num_items, dim) float32 embeddings; holds one chunk and the codebooks on ``device``."""
        num_items, dim = embeddings.shape
        quantizer = cls(config.num_codebooks, config.codebook_size, dim).to(device)
        codes = torch.zeros(num_items, config.num_codebooks, dtype=torch.int64, device=device)
        for level in trange(config.num_codebooks, desc="k-means levels", disable=None):

            def residuals(level: int = level) -> Iterator[Tensor]:
                for part, chunk in row_chunks(embeddings, device):
                    yield chunk - quantizer.quantized_latents(codes[part, :level]) if level else chunk

            seed = config.seed + level
            centres = kmeans(residuals, num_items, config.codebook_size, config.kmeans_iterations, seed)
            quantizer.codebooks[level] = centres
            codes[:, level] = torch.cat([squared_distances(chunk, centres).argmin(dim=-1) for chunk in residuals()])
        return quantizer
