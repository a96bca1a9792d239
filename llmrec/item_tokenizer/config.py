"""What defines an item tokenizer: one flat, frozen dataclass, saved beside the codes it produced."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ItemTokenizerConfig:
    """Settings of ``ItemTokenizer.fit``: LC-Rec's values (arXiv 2311.09049 and its code) unless marked *ours*.

    Args:
        quantizer: ``residual_kmeans`` (seconds, nothing to tune) or ``rqvae`` (LC-Rec's). The default is *ours*.
        num_codebooks: levels of the quantizer; a semantic ID may get one more level (see ``collisions``).
        codebook_size: codes at each level.
        conflict_rounds: rounds of Sinkhorn re-quantization of colliding items; 0 leaves every collision to the
            disambiguation level, as TIGER does.
        sinkhorn_epsilon: temperature of the uniform mapping at the last level; smaller follows distances more closely.
        sinkhorn_iterations: row and column normalisations.
        kmeans_iterations: at most this many Lloyd passes over the catalogue for each level (*ours*).
        hidden_sizes: widths of the RQ-VAE encoder between input and latent, mirrored in the decoder. ``None`` takes
            LC-Rec's stack 2048-1024-512-256-128-64 without the widths above the input's (*ours* below 2048 inputs).
        num_components: principal components that residual k-means keeps, the width of its codes (*ours*): more of them
            for larger codebooks.
        latent_dim: width of the RQ-VAE's latent, and of its codes.
        epochs: passes of RQ-VAE training; the authors used the 5,000th epoch's checkpoint.
        batch_size: items in one RQ-VAE step.
        learning_rate: peak of AdamW's, after a linear warm-up and before a linear decay to 0.
        weight_decay: of AdamW.
        warmup_epochs: length of the warm-up; at most a tenth of ``epochs`` (*ours*, for short runs).
        max_grad_norm: gradients are clipped to this norm.
        beta: weight of the commitment half of the quantization loss.
        quantization_weight: weight of the quantization loss beside the reconstruction loss.
        eval_every: epochs between two measurements of the collision rate (the best is kept) and restarts of dead codes.
        seed: of everything random.
        device: a torch device; ``None`` takes a GPU where there is one.

    Raises:
        ValueError: if a value is out of range.
    """

    quantizer: Literal["rqvae", "residual_kmeans"] = "residual_kmeans"
    num_codebooks: int = 4
    codebook_size: int = 256
    conflict_rounds: int = 20
    sinkhorn_epsilon: float = 0.003
    sinkhorn_iterations: int = 50
    kmeans_iterations: int = 50
    hidden_sizes: tuple[int, ...] | None = None
    num_components: int = 32
    latent_dim: int = 32
    epochs: int = 5000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: int = 50
    max_grad_norm: float = 1.0
    beta: float = 0.25
    quantization_weight: float = 1.0
    eval_every: int = 50
    seed: int = 42
    device: str | None = None

    def __post_init__(self) -> None:
        if self.hidden_sizes is not None:
            object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))  # JSON and YAML give lists
        if self.quantizer not in ("rqvae", "residual_kmeans"):
            raise ValueError(f"quantizer={self.quantizer!r}: choose 'rqvae' or 'residual_kmeans'.")
        at_least_one = ["num_codebooks", "sinkhorn_iterations", "kmeans_iterations", "num_components", "latent_dim"]
        for name in [*at_least_one, "epochs", "batch_size", "eval_every"]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1.")
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size={self.codebook_size}: give at least 2, or every item has the same code.")
        if self.conflict_rounds < 0:
            raise ValueError(f"conflict_rounds={self.conflict_rounds}: give 0 (none) or more.")
        # Below 0.003 the scaled distances of -1 to 1 overflow float64 in exp(distance / epsilon).
        if self.sinkhorn_epsilon < 0.0015:
            raise ValueError(f"sinkhorn_epsilon={self.sinkhorn_epsilon}: give at least 0.0015 (LC-Rec: 0.003).")
