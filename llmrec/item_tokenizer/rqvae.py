"""RQ-VAE: an autoencoder whose latent is the sum of one code vector per level (LC-Rec, arXiv 2311.09049)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.linear_stack import linear_stack
from llmrec.item_tokenizer.quantizer import Quantizer, squared_distances
from llmrec.item_tokenizer.sinkhorn import sinkhorn_codes

#: LC-Rec's hidden widths for 4096-d inputs.
PAPER_HIDDEN_SIZES = (2048, 1024, 512, 256, 128, 64)


class RQVAEOutput(NamedTuple):
    """One training step's result."""

    loss: Tensor
    reconstruction_loss: Tensor
    quantization_loss: Tensor
    codes: Tensor  # (batch, num_codebooks) int64


class RQVAE(Quantizer):
    """Encoder and decoder of linear layers with ReLU between them, and residual codebooks in between.

    Args:
        config: levels, sizes, widths and loss weights.
        dim: width of the embeddings.
    """

    def __init__(self, config: ItemTokenizerConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        widths = config.hidden_sizes
        if widths is None:
            widths = tuple(width for width in PAPER_HIDDEN_SIZES if width <= dim)
        sizes = [dim, *widths, config.latent_dim]
        self.encoder = linear_stack(sizes)
        self.decoder = linear_stack(sizes[::-1])
        self.codebooks = nn.Parameter(torch.zeros(config.num_codebooks, config.codebook_size, config.latent_dim))

    def to_latents(self, embeddings: Tensor) -> Tensor:
        return self.encoder(embeddings)

    def from_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def forward(self, embeddings: Tensor) -> RQVAEOutput:
        """Losses of one training batch, the last level's codes by Sinkhorn over the batch.

        Args:
            embeddings: (batch, dim) float32.

        Returns:
            ``loss`` = mean squared reconstruction error + quantization_weight * the mean over levels of
            mse(quantized, sg[residual]) + beta * mse(sg[quantized], residual), sg = stop-gradient.
        """
        residuals = self.to_latents(embeddings)
        quantized_sum, level_losses, codes = torch.zeros_like(residuals), [], []
        for level, codebook in enumerate(self.codebooks):
            codes.append(self._training_codes(residuals.detach(), level))
            quantized = functional.embedding(codes[-1], codebook)
            level_losses.append(
                functional.mse_loss(quantized, residuals.detach())
                + self.config.beta * functional.mse_loss(quantized.detach(), residuals)
            )
            straight_through = residuals + (quantized - residuals).detach()
            residuals = residuals - straight_through
            quantized_sum = quantized_sum + straight_through
        reconstruction_loss = functional.mse_loss(self.from_latents(quantized_sum), embeddings)
        quantization_loss = torch.stack(level_losses).mean()
        loss = reconstruction_loss + self.config.quantization_weight * quantization_loss
        return RQVAEOutput(loss, reconstruction_loss, quantization_loss, torch.stack(codes, dim=-1))

    def _training_codes(self, residuals: Tensor, level: int) -> Tensor:
        distances = squared_distances(residuals, self.codebooks[level].detach())
        if level < self.config.num_codebooks - 1:
            return distances.argmin(dim=-1)
        return sinkhorn_codes(distances, self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations)
