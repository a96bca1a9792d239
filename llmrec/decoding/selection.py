"""Which candidates of a level live on: the best, the best with few of each kind, or a sample without replacement."""

import torch
from torch import Tensor


def best(
    scores: Tensor, count: int, groups: Tensor | None = None, per_group: int | None = None
) -> tuple[Tensor, Tensor]:
    """The ``count`` highest scores of each row, descending, and their places; fewer where a row is shorter.

    Args:
        scores: (rows, candidates); -inf marks what may not be chosen.
        count: how many.
        groups: int64 of the same shape, needed with ``per_group``.
        per_group: at most so many of each group; what is beyond comes out as -inf.
    """
    if per_group is not None and groups is not None:
        scores = scores.masked_fill(_rank_in_group(scores, groups) >= per_group, -torch.inf)
    chosen, index = scores.topk(min(count, scores.shape[1]), dim=1)
    return chosen, index


def _rank_in_group(scores: Tensor, groups: Tensor) -> Tensor:
    """Rank of each entry among those of its row and group, the highest score first (0)."""
    by_score = scores.argsort(dim=1, descending=True, stable=True)
    by_group = groups.gather(1, by_score).argsort(dim=1, stable=True)
    order = by_score.gather(1, by_group)
    sorted_groups = groups.gather(1, order)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    opens = torch.ones_like(order, dtype=torch.bool)
    opens[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
    start = torch.where(opens, place, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter_(1, order, place - start)


def gumbel_children(parents: Tensor, log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Perturbed log-probabilities of children whose largest equals their parent's: one step of stochastic beams.

    Taking the highest of them at every level samples leaves without replacement (Kool et al., arXiv 1903.06059,
    section 4, with the numerically stable form of its appendix B.3).

    Args:
        parents: (..., ) perturbed log-probabilities of the nodes, float32.
        log_probs: (..., children): log-probabilities of the children from the root; -inf where there is none. Those of
            the children of one node sum to that of the node.
        generator: of the noise.
    """
    device = log_probs.device if generator is None else generator.device
    noise = -torch.empty(log_probs.shape, device=device).exponential_(generator=generator).log()
    perturbed = log_probs + noise.to(log_probs.device)
    largest = perturbed.amax(-1, keepdim=True)
    gap = torch.log(-torch.expm1(perturbed - largest))
    shift = parents.unsqueeze(-1) - perturbed + gap
    children = parents.unsqueeze(-1) - shift.clamp(min=0) - torch.log1p(torch.exp(-shift.abs()))
    return torch.where(log_probs > -torch.inf, children, -torch.inf)
