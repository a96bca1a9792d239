"""Residual k-means: k-means on the embeddings' principal components, then on what each level leaves over."""

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.kmeans import kmeans
from llmrec.item_tokenizer.pca import principal_components
from llmrec.item_tokenizer.quantizer import CHUNK_ROWS, Quantizer, row_chunks, squared_distances


class ResidualKMeans(Quantizer):
    """Codebooks found by k-means, one level after the other, in the space of the first principal components.

    In hundreds of dimensions the residuals of a few thousand items are nearly equidistant, and k-means ends with one
    cluster for almost all of them beside many of one item: on MovieLens text embeddings (384-d, 4 x 256 codes) levels
    2 to 4 had perplexities of 13, 6 and 14; on 32 components 129, 108 and 69.

    Args:
        config: levels, sizes and ``num_components`` (at most ``dim`` are kept).
        dim: width of the embeddings.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, config: ItemTokenizerConfig, dim: int) -> None:
        super().__init__()
        num_components = min(config.num_components, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("components", torch.zeros(dim, num_components))
        self.register_buffer("codebooks", torch.zeros(config.num_codebooks, config.codebook_size, num_components))

    def to_latents(self, embeddings: Tensor) -> Tensor:
        return (embeddings - self.mean) @ self.components

    def from_latents(self, latents: Tensor) -> Tensor:
        return latents @ self.components.T + self.mean

    @classmethod
    def fit(cls, embeddings: np.ndarray, config: ItemTokenizerConfig, device: torch.device) -> "ResidualKMeans":
        """Fit on (num_items, dim) float32 embeddings; holds ``num_components`` floats for each item on ``device``."""
        quantizer = cls(config, embeddings.shape[1]).to(device)
        mean, components = principal_components(embeddings, quantizer.components.shape[1])
        quantizer.mean.copy_(torch.from_numpy(mean))
        quantizer.components.copy_(torch.from_numpy(components))
        residuals = torch.cat([quantizer.to_latents(chunk) for _, chunk in row_chunks(embeddings, device)])
        for level in trange(config.num_codebooks, desc="k-means levels", disable=None):
            centres = kmeans(residuals, config.codebook_size, config.kmeans_iterations, config.seed + level)
            quantizer.codebooks[level] = centres
            for chunk in residuals.split(CHUNK_ROWS):
                chunk.sub_(centres[squared_distances(chunk, centres).argmin(dim=-1)])
        return quantizer
