"""Muon for the matrices of a model's layers, another optimizer for all the rest, as one optimizer.

Muon (Jordan et al. 2024) steps along the nearest orthogonal matrix of the momentum, so that directions which few
examples ask for move as far as those which all do: a small model learns rare items' links in fewer passes
(docs/benchmarks.md). Embeddings, norms and biases have no such directions and keep the other optimizer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Muon, Optimizer
from transformers import PreTrainedModel

#: Of the other weights' learning rate, chosen on validation (docs/benchmarks.md).
MUON_RATE = 2


def layer_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The trained matrices that map states to states: every linear layer's weight but the output head's."""
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    weights = [weight for module in linear for name, weight in module.named_parameters() if name == "weight"]
    return [weight for weight in weights if weight.requires_grad]


class CpuMuon(Muon):
    """torch's Muon with float32 where it takes bfloat16, which most CPUs have no instructions for.

    On one that has none the matrices of the small model take a third of the time, and their steps are more exact.
    Updates are scaled as ``match_rms_adamw`` says.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, weights, gradients, momenta)
            for weight, gradient, momentum in zip(weights, gradients, momenta, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"])
                update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * max(weight.shape) ** 0.5 * group["lr"])
        return loss


def orthogonalized(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """``matrix`` with singular values near 1, by Newton-Schulz iterations (Jordan et al. 2024) in float32."""
    tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if tall else matrix).float()
    found = found / found.norm().clamp(min=eps)
    linear, cubic, quintic = coefficients
    for _ in range(steps):
        gram = found @ found.T
        gram = torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic)
        found = torch.addmm(found, gram, found, beta=linear)
    return found.T if tall else found


class MuonWithRest(Optimizer):
    """Two optimizers that schedulers, accelerate and checkpoints see as one.

    Args:
        matrices: two-dimensional weights for Muon.
        rest: optimizer of the other weights.
        lr: Muon's rate; its updates are scaled to the root mean square of AdamW's, so that AdamW's rates fit
            (Liu et al. 2025, arXiv 2502.16982, section 2.2).
        weight_decay: decoupled.
    """

    def __init__(self, matrices: list[nn.Parameter], rest: Optimizer, lr: float, weight_decay: float) -> None:
        kind = CpuMuon if matrices[0].device.type == "cpu" else Muon
        self.muon = kind(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.rest = rest
        super().__init__([*rest.param_groups, *self.muon.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        """Have the very groups of the two, so that a schedule sets their rates; logs show the first one's."""
        self.param_groups = [*self.rest.param_groups, *self.muon.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.muon.step()
        self.rest.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.rest.load_state_dict(state_dict["rest"])
        self._share_groups()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.muon.zero_grad(set_to_none)
        self.rest.zero_grad(set_to_none)
