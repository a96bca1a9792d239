"""What both quantizers share: residual codebooks in a latent space, searched level by level, chunk by chunk."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

#: Rows moved to the device at a time. Bounds memory, not results: distances take CHUNK_ROWS x codebook_size floats.
CHUNK_ROWS = 8192


class Quantizer(nn.Module):
    """Maps embeddings to a latent space and a latent to one code per level, each level quantizing what is left over.

    Attributes:
        codebooks: float32 of shape (num_codebooks, codebook_size, latent_dim).
    """

    codebooks: Tensor

    def to_latents(self, embeddings: Tensor) -> Tensor:
        """(batch, dim) embeddings to (batch, latent_dim) latents."""
        raise NotImplementedError

    def from_latents(self, latents: Tensor) -> Tensor:
        """(batch, latent_dim) latents back to (batch, dim) embeddings."""
        raise NotImplementedError

    @torch.no_grad()
    def nearest_codes(self, embeddings: Tensor) -> Tensor:
        """The nearest code at every level: (batch, dim) float32 to (batch, num_codebooks) int64."""
        residuals = self.to_latents(embeddings)
        codes = []
        for codebook in self.codebooks:
            codes.append(squared_distances(residuals, codebook).argmin(dim=-1))
            residuals = residuals - codebook[codes[-1]]
        return torch.stack(codes, dim=-1)

    @torch.no_grad()
    def last_level_distances(self, embeddings: Tensor, codes: Tensor) -> Tensor:
        """Squared distances of what ``codes`` leaves over before the last level to every code of the last level.

        Args:
            embeddings: (batch, dim) float32.
            codes: (batch, num_codebooks) int64; the last column is not used.

        Returns:
            (batch, codebook_size) float32.
        """
        residuals = self.to_latents(embeddings)
        if len(self.codebooks) > 1:
            residuals = residuals - self.quantized_latents(codes[:, :-1])
        return squared_distances(residuals, self.codebooks[-1])

    @torch.no_grad()
    def quantized_latents(self, codes: Tensor) -> Tensor:
        """The sum of the codes' vectors: (batch, levels) int64, the first levels or all, to (batch, latent_dim)."""
        return torch.stack([self.codebooks[level][codes[:, level]] for level in range(codes.shape[1])]).sum(dim=0)

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """The nearest code at every level, chunk by chunk: (num_items, dim) to int32 (num_items, num_codebooks)."""
        device = self.codebooks.device
        chunks = [self.nearest_codes(chunk).cpu().numpy() for _, chunk in row_chunks(embeddings, device)]
        return np.concatenate(chunks).astype(np.int32) if chunks else np.empty((0, len(self.codebooks)), np.int32)


def squared_distances(points: Tensor, codebook: Tensor) -> Tensor:
    """Squared L2 distances: (batch, dim) and (codes, dim) to (batch, codes), never below 0."""
    products = points @ codebook.T
    distances = points.square().sum(dim=-1, keepdim=True) - 2 * products + codebook.square().sum(dim=-1)
    return distances.clamp_(min=0)


def row_chunks(
    embeddings: np.ndarray, device: torch.device | str, rows: int = CHUNK_ROWS
) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive rows of ``embeddings`` (a memory map will do) as float32 tensors on ``device``, with their slice."""
    for start in range(0, len(embeddings), rows):
        part = slice(start, min(start + rows, len(embeddings)))
        yield part, torch.tensor(embeddings[part], dtype=torch.float32, device=device)
