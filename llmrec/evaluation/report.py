"""What came out: a table, metrics.json, a picture, and recommendations that a person can read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llmrec.atomic import atomic_path, write_json
from llmrec.evaluation.evaluator import EvaluationResult
from llmrec.metrics import PairedDifference, paired_bootstrap

#: Rows of a table that are floors rather than models.
FLOORS = ("popularity", "item_knn", "item_knn_refit", "sasrec")
_PRIMARY = "ndcg@10"
_GROUP_NAMES = {"all": "full catalogue", "warm": "those with training interactions", "cold": "those without"}


def print_table(results: Sequence[EvaluationResult], protocol: Mapping[str, Any]) -> None:
    """Print one row per recommender under a line that says which protocol the numbers belong to.

    Args:
        results: the models' results, then the floors'.
        protocol: ``evaluator.protocol``, with ``tuning`` (full, lora, ...) where a model was trained.
    """
    print(format_table(results, protocol))


def format_table(results: Sequence[EvaluationResult], protocol: Mapping[str, Any]) -> str:
    """The text that ``print_table`` prints."""
    columns = _table_metrics(results)
    header = ["", *columns]
    if _PRIMARY in columns:
        header.insert(columns.index(_PRIMARY) + 2, "95 % interval")
    rows = [header]
    for result in results:
        row = [result.name]
        for metric in columns:
            row.append(f"{result.metrics[metric]:.4f}")
            if metric == _PRIMARY:
                low, high = result.intervals[metric]
                row.append(f"{low:.4f}-{high:.4f}")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [describe_protocol(protocol), ""]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join([*lines, "", *compare_with_floors(results, int(protocol.get("seed", 0)))])


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line: dataset, split, what is excluded, and how the model was trained."""
    parts = [
        f"{protocol['dataset']} ({protocol['split']} split {protocol['split_fingerprint']})",
        f"{protocol['num_users']} users, {protocol['num_items']} items, {_GROUP_NAMES[protocol.get('items', 'all')]}",
        f"histories of at most {protocol['max_history']} items",
        "seen items excluded" if protocol["exclude_seen"] else "seen items allowed",
        "refit: trained with the validation targets"
        if protocol["refit"]
        else "strict: trained without validation targets",
    ]
    if "tuning" in protocol:
        parts.append(f"tuning {protocol['tuning']}")
    return "; ".join(parts)


def compare_with_floors(results: Sequence[EvaluationResult], seed: int) -> list[str]:
    """One plain sentence for each model about the highest floor, with a paired bootstrap interval over users."""
    values = {result.name: result.metrics.get(_PRIMARY) for result in results}
    sentences = []
    for name, (floor, paired) in floor_differences(results, seed).items():
        numbers = (
            f"{_PRIMARY} {values[name]:.4f} against {values[floor]:.4f}, "
            f"difference {paired.difference:+.4f} (95 % interval {paired.low:+.4f} to {paired.high:+.4f})"
        )
        if paired.low > 0:
            sentences.append(f"{name} is above its highest floor, {floor}: {numbers}.")
        elif paired.high < 0:
            sentences.append(f"The floor {floor} is HIGHER than {name}: {numbers}.")
        else:
            higher, lower = (name, floor) if paired.difference > 0 else (floor, name)
            sentences.append(f"{higher} is higher than {lower}, but these users do not separate the two: {numbers}.")
    return sentences


def floor_differences(results: Sequence[EvaluationResult], seed: int) -> dict[str, tuple[str, PairedDifference]]:
    """For each model the highest floor, and how much more ndcg@10 it has than that one; empty without floors."""
    floors = [result for result in results if result.name in FLOORS and _PRIMARY in result.metrics]
    models = [result for result in results if result.name not in FLOORS and _PRIMARY in result.metrics]
    if not floors:
        return {}
    floor = max(floors, key=lambda result: result.metrics[_PRIMARY])
    per_user = floor.per_user[_PRIMARY]
    return {model.name: (floor.name, paired_bootstrap(model.per_user[_PRIMARY], per_user, seed)) for model in models}


def write_metrics_json(
    path: str | Path,
    protocol: Mapping[str, Any],
    split_fingerprint: str,
    results: Sequence[EvaluationResult],
    seconds: Mapping[str, float],
    groups: Mapping[str, Sequence[EvaluationResult]] | None = None,
) -> None:
    """Write ``{"protocol", "split_fingerprint", "results": {name: {metric: number}}, "seconds"}``; docs/evaluation.md.

    Beside its metrics every result holds ``intervals`` (``{metric: [low, high]}``) and ``buckets`` (head and tail).
    ``less_floor`` holds for each model how much more ndcg@10 it has than the highest floor, with a paired interval.
    Where there are ``groups``, ``{"groups": {"warm": {name: ...}}}`` holds the results of each.
    """
    content = {
        "protocol": dict(protocol),
        "split_fingerprint": split_fingerprint,
        "results": _as_json(results),
        "seconds": {stage: float(duration) for stage, duration in seconds.items()},
        "less_floor": {
            name: {"floor": floor, "difference": paired.difference, "interval": [paired.low, paired.high]}
            for name, (floor, paired) in floor_differences(results, int(protocol.get("seed", 0))).items()
        },
    }
    if groups:
        content["groups"] = {name: _as_json(group_results) for name, group_results in groups.items()}
    write_json(path, content)


def write_per_user(path: str | Path, user_ids: Sequence[str], results: Sequence[EvaluationResult]) -> None:
    """Write ndcg@10 of every user as a parquet table: ``user_id``, and a column for each recommender.

    What paired comparisons of several runs need (means over seeds, another baseline).
    """
    columns = {result.name: result.per_user[_PRIMARY] for result in results if _PRIMARY in result.per_user}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"user_id": list(user_ids), **columns}), temporary)


def _as_json(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    return {
        result.name: {
            **result.metrics,
            "intervals": {metric: list(interval) for metric, interval in result.intervals.items()},
            "buckets": result.buckets,
        }
        for result in results
    }


def plot_comparison(results: Sequence[EvaluationResult], path: str | Path) -> None:
    """Draw hit_rate@10 and ndcg@10 of every recommender as bars with their 95 % intervals; a PNG at ``path``."""
    shown = [metric for metric in ("ndcg@10", "hit_rate@10") if all(metric in result.metrics for result in results)]
    if not shown:
        raise ValueError("plot_comparison draws ndcg@10 and hit_rate@10: evaluate with 10 among the ks.")
    figure = Figure(figsize=(4.6 * len(shown), 1.2 + 0.5 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, and without pyplot's global state
    names = [result.name for result in results]
    colours = ["#b8b8b8" if name in FLOORS else "#2a6fbb" for name in names]
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        means = np.array([result.metrics[metric] for result in results])
        bounds = np.array([result.intervals[metric] for result in results])
        errors = np.maximum(np.abs(bounds.T - means), 0)
        axes.barh(names, means, xerr=errors, color=colours, capsize=3, error_kw={"ecolor": "#333333"})
        for row, (mean, high) in enumerate(zip(means, bounds[:, 1], strict=True)):
            axes.annotate(
                f"{mean:.4f}", (high, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set_xlim(0, bounds[:, 1].max() * 1.25 or 1.0)
        axes.set_title(f"{metric} with 95 % intervals over users", fontsize=10)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def print_recommendations(
    titles: Sequence[str],
    histories: Sequence[Sequence[int]],
    ranked: np.ndarray,
    targets: np.ndarray,
    num_users: int = 3,
    k: int = 5,
    last: int = 5,
) -> None:
    """Print the last titles of a few users' histories, the first ``k`` recommended titles, and what came next.

    Args:
        titles: of every catalogue item, by item index.
        histories: item indices of each user, oldest first.
        ranked: shape (num_users, list_length); empty slots are -1.
        targets: shape (num_users, max_targets), padded with -1.
        num_users: how many users are shown, evenly spread over all.
        k: titles shown of a list.
        last: titles shown of a history.
    """
    for user in np.unique(np.linspace(0, len(histories) - 1, num_users).astype(int)):
        wanted = {int(item) for item in targets[user] if item >= 0}
        earlier = f"... {len(histories[user]) - last} earlier, " if len(histories[user]) > last else ""
        print(f"\nhistory:     {earlier}{'; '.join(titles[item] for item in histories[user][-last:])}")
        for place, item in enumerate((int(item) for item in ranked[user][:k] if 0 <= item < len(titles)), start=1):
            label = "recommended:" if place == 1 else ""
            print(f"{label:<13}{place}. {titles[item]}{'   <- came next' if item in wanted else ''}")
        print(f"came next:   {'; '.join(titles[item] for item in sorted(wanted))}")


def _table_metrics(results: Sequence[EvaluationResult]) -> list[str]:
    """Metric columns that every result has: hit rate and ndcg at 5, 10 and 20, coverage@10, valid_rate.

    Recall takes the place of the hit rate where users have several targets.
    """
    several = any(
        result.metrics.get(f"recall@{k}") != result.metrics.get(f"hit_rate@{k}")
        for result in results
        for k in (5, 10, 20)
    )
    wanted = [f"{metric}@{k}" for k in (5, 10, 20) for metric in ("recall" if several else "hit_rate", "ndcg")]
    wanted += ["coverage@10", "valid_rate"]
    return [metric for metric in wanted if all(metric in result.metrics for result in results)]
