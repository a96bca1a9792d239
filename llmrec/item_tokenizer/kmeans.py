"""Lloyd's k-means, distances taken chunk by chunk, on CPU or GPU, deterministic for a seed.

Written here rather than taken from scikit-learn because it runs on a GPU and restarts dead codes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.item_tokenizer.quantizer import CHUNK_ROWS, squared_distances

#: Lloyd stops when a pass lowers the summed squared distance by less than this fraction.
TOLERANCE = 1e-4
#: k-means++ chooses its first centres among at most this many points per code.
INIT_POINTS_PER_CODE = 16


@dataclass
class _Pass:
    """What one pass over the points leaves: everything the next centres are made from."""

    sums: Tensor  # (codes, dim), of the points assigned to each code
    counts: Tensor  # (codes,)
    farthest: Tensor  # (at most codes, dim), the points farthest from their own code, farthest first
    farthest_distances: Tensor
    inertia: float  # sum of squared distances


def kmeans(points: Tensor, num_codes: int, iterations: int, seed: int) -> Tensor:
    """Centres of ``num_codes`` clusters.

    Dead codes: after each pass, every code that no point chose restarts at one of the points that lie farthest from
    their own centre. Only where there are fewer distinct points than codes do some stay unused.

    Args:
        points: float32 (num_points, dim).
        num_codes: number of centres.
        iterations: most passes over the points.
        seed: of the choice of first centres (k-means++ on a sample).

    Returns:
        float32 of shape (num_codes, dim), on the points' device.
    """
    rng = np.random.default_rng(seed)
    sample = rng.choice(len(points), min(len(points), num_codes * INIT_POINTS_PER_CODE), replace=False)
    centres = _kmeans_plus_plus(points[torch.from_numpy(np.sort(sample)).to(points.device)], num_codes, rng)
    previous = float("inf")
    for _ in range(iterations):
        result = _assign(points, centres)
        empty = (result.counts == 0).nonzero().squeeze(-1)
        centres = torch.where(
            result.counts[:, None] > 0, result.sums / result.counts.clamp(min=1)[:, None].to(result.sums.dtype), centres
        )
        restarted = empty[: int((result.farthest_distances > 0).sum())]
        centres[restarted] = result.farthest[: len(restarted)]
        if len(restarted) == 0 and previous - result.inertia <= TOLERANCE * result.inertia:
            break
        previous = result.inertia
    return centres


def _assign(points: Tensor, centres: Tensor) -> _Pass:
    num_codes, dim = centres.shape
    sums, counts = torch.zeros_like(centres), centres.new_zeros(num_codes, dtype=torch.int64)
    farthest, farthest_distances = centres.new_empty(0, dim), centres.new_empty(0)
    inertia = 0.0
    for chunk in points.split(CHUNK_ROWS):
        distances, codes = squared_distances(chunk, centres).min(dim=-1)
        # Sorted sums rather than index_add_: the same result every time on a GPU too.
        order = codes.argsort(stable=True)
        part = torch.bincount(codes, minlength=num_codes)
        sums += torch.segment_reduce(chunk[order], "sum", lengths=part, axis=0, unsafe=True, initial=0)
        counts += part
        inertia += float(distances.double().sum())
        top = distances.topk(min(num_codes, len(chunk)))
        candidates = torch.cat([farthest_distances, top.values])
        keep = candidates.topk(min(num_codes, len(candidates)))
        farthest = torch.cat([farthest, chunk[top.indices]])[keep.indices]
        farthest_distances = keep.values
    return _Pass(sums, counts, farthest, farthest_distances, inertia)


def _kmeans_plus_plus(points: Tensor, num_codes: int, rng: np.random.Generator) -> Tensor:
    """First centres: each further one drawn with odds proportional to the squared distance to the nearest so far."""
    draws = rng.random(num_codes)
    chosen = [int(draws[0] * len(points))]
    squares = points.square().sum(dim=-1)
    distances = squared_distances(points, points[chosen]).squeeze(-1)
    for draw in draws[1:]:
        cumulative = distances.double().cumsum(dim=0)
        total = float(cumulative[-1])
        # All points covered: the remaining codes are spare, whatever they hold.
        index = int(torch.searchsorted(cumulative, draw * total)) if total > 0 else int(draw * len(points))
        chosen.append(min(index, len(points) - 1))
        newest = points[chosen[-1]]
        distances = torch.minimum(distances, squares - 2 * (points @ newest) + newest.square().sum()).clamp_(min=0)
    return points[chosen].clone()
