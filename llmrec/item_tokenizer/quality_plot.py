"""One picture of an item tokenizer's quality."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llmrec.atomic import atomic_path


def plot_quality(report: dict[str, Any], codes: np.ndarray, path: Path) -> None:
    """Draw how evenly codes are used, collisions, and the hit rate of embeddings before and after quantization.

    Args:
        report: from ``quality_report``.
        codes: int32 (num_items, num_codebooks), the quantizer's levels.
        path: of the PNG to write.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    usage, collisions, hits = figure.subplots(1, 3)
    for level, info in enumerate(report["levels"]):
        counts = np.sort(np.bincount(codes[:, level], minlength=info["codebook_size"]))[::-1]
        label = f"level {level}: {info['codes_used']} used, perplexity {info['perplexity']:.0f}"
        usage.plot(np.arange(1, len(counts) + 1), counts, label=label)
    usage.set(title="Items per code, most used first", xlabel="code", ylabel="items", yscale="symlog")
    usage.legend(fontsize="small")
    rates = report["collision_rate"]
    _bars(collisions, "Collision rate", [name.replace("_", "\n") for name in rates], list(rates.values()))
    if "embedding_hit_rate" in report:
        measured = report["embedding_hit_rate"]
        bars = {
            f"{space}\n{name}": value
            for name in measured["embeddings"]
            for space, value in (("embeddings", measured["embeddings"][name]), ("IDs", measured["quantized"][name]))
        }
        _bars(hits, f"Hit rate on {measured['users']} validation users", list(bars), list(bars.values()))
    else:
        hits.set_axis_off()
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _bars(axes: Axes, title: str, names: list[str], values: list[float]) -> None:
    axes.bar_label(axes.bar(names, values), fmt="%.3f", fontsize="small")
    axes.set(title=title, ylim=(0, max(0.01, 1.15 * max(values))))
    axes.tick_params(axis="x", labelsize="small")
