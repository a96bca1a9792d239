"""What pictures of results over seeds share."""

from collections.abc import Collection, Sequence
from typing import Any


def draw_seeds(
    axes: Any,
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    intervals: Sequence[Sequence[float]],
    title: str,
    floors: Collection[str] = (),
) -> None:
    """A line for each row of a table: a dot for each seed, over the interval of the first; ``floors`` are grey."""
    for place, (name, of_seeds, interval) in enumerate(zip(names, values, intervals, strict=True)):
        axes.plot(interval, [place, place], color="#999999", linewidth=3)
        axes.plot(of_seeds, [place] * len(of_seeds), "o", color="#b8b8b8" if name in floors else "#2a6fbb")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
