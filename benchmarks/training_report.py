"""Tables and the picture of benchmarks/training.py, and as Markdown those of a result file.

python -m benchmarks.training_report benchmarks/results/training.json
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.training_contenders import CONTENDERS, Contender
from benchmarks.training_gpu import CONTENDERS as CONTENDERS_GPU
from benchmarks.training_step_memory import BATCH, STEPS
from llmrec.atomic import atomic_path

matplotlib.use("Agg")

HEADER = (
    "contender",
    "tokens/s",
    "examples/s",
    "targets/s",
    "tokens/target",
    "padding",
    "peak MB",
    "trained",
    "NDCG@10",
    "seconds to it",
    "with validation",
)


def print_tables(results: dict[str, Any]) -> None:
    """Every contender, then the memory of one step."""
    machine = {**results["hardware"], **results["versions"]}
    settings = results["settings"]
    print(f"\n{results['dataset']}, split {results['split_fingerprint']}; " + ", ".join(map(str, machine.values())))
    print(f"target: validation NDCG@10 of {settings['target']}, seconds of training without validation")
    rows = [HEADER, *(_row(name, run) for name, run in results["runs"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
    for step in results["step_memory"]:
        tokens = f"{BATCH} x {step['length']} tokens, loss on {step['labels']}"
        print(f"one step, vocabulary 151,936, {tokens}: {step['peak_bytes'] / 1e9:.2f} GB  {STEPS[step['name']]}")
    print(
        "tokens_ratio: target tokens learned from in a second, ours / TRL's defaults; "
        "time_to_ndcg_ratio: TRL's defaults / ours; memory_ratio: ours / plain transformers"
    )


def _row(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    reached = ("", "", "")  # only its speed was measured
    if run["validations"]:
        last, bound = run["validations"][-1], "" if run["reached"] else "> "
        reached = f"{last['ndcg@10']:.4f}", f"{bound}{run['seconds']:.0f}", f"{last['seconds_with_validation']:.0f}"
    return (
        CONTENDERS[name].label,
        f"{run['tokens_per_s']:,.0f}",
        f"{run['examples_per_s']:.1f}",
        f"{run['targets_per_s']:,.0f}",
        f"{run['tokens_per_target']:.1f}",
        f"{run['padding']:.0%}",
        f"{run['peak_bytes'] / 1e6:.0f}",
        f"{run['trained_parameters'] / 1e6:.2f}M",
        *reached,
    )


def markdown(results: dict[str, Any]) -> str:
    """The table of a result file of benchmarks/training.py, or those of benchmarks/training_gpu.py."""
    if "models" not in results:
        return "\n".join(_lines(HEADER, [_row(name, run) for name, run in results["runs"].items()]))
    header = ("contender", "tokens/s", "targets/s", "share of the peak", "padding", "peak GB")
    tables = []
    for name, model in results["models"].items():
        rows = [_gpu_row(CONTENDERS_GPU[key], run) for key, run in model["runs"].items()]
        tables.append("\n".join([f"{name} ({model['weights']} weights):", "", *_lines(header, rows)]))
    return "\n\n".join(tables)


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(cell.strip() for cell in row) + " |"


def _gpu_row(contender: Contender, run: dict[str, Any]) -> tuple[str, ...]:
    if "tokens_per_s" not in run:
        return contender.label, run.get("skipped") or run["failed"], "", "", "", ""
    share = run["peak_share"]
    return (
        contender.label,
        f"{run['tokens_per_s']:,.0f}",
        f"{run['targets_per_s']:,.0f}",
        "" if share is None else f"{share:.1%}",
        f"{run['padding']:.0%}",
        f"{run['peak_bytes'] / 1e9:.1f}",
    )


def plot(results: dict[str, Any], path: Path) -> None:
    """Validation NDCG@10 over seconds of training, and targets a second."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, run in results["runs"].items():
        places = run["validations"]
        if not places:
            continue
        label = CONTENDERS[name].label
        left.semilogx([place["seconds"] for place in places], [place["ndcg@10"] for place in places], ".-", label=label)
    left.axhline(results["settings"]["target"], color="grey", linewidth=0.8, linestyle="--")
    left.set(xlabel="seconds of training", ylabel="validation NDCG@10", title="to the same NDCG@10")
    left.legend(fontsize=7)
    runs = results["runs"]
    right.barh([CONTENDERS[name].label for name in runs], [run["targets_per_s"] for run in runs.values()])
    right.set(xlabel="target items a second", title="what a second teaches")
    right.set_xscale("log")
    right.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
