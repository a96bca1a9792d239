"""The halves of an auto-encoder."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def linear_stack(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers from the first to the last of ``sizes`` with ReLU between them; Xavier weights, zero biases."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
