"""Tables and the picture of benchmarks/decoding.py."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.decoding_contenders import CONTENDERS
from llmrec.atomic import atomic_path

matplotlib.use("Agg")

#: Published, for a reader on a GPU to compare with; not measured here.
REFERENCES = (
    "SID-GR (NVIDIA), Qwen3-1.7B bf16, H100, beam 256, 3 tokens, prompts of 1,000: 17.6 ms a request, 93 ms for 8",
    "STATIC (arXiv 2602.22647), 3B model on TPU v6e, 20 million items: constraint 0.033 ms a step",
)


def print_tables(results: dict[str, Any]) -> None:
    """Every run, then what the headline says."""
    machine = {**results["hardware"], **results["versions"]}
    settings, summary = results["settings"], results["summary"]
    print(f"\n{settings['model']}, {settings['dtype']}, {settings['device']}; " + ", ".join(map(str, machine.values())))
    header = (
        "contender",
        "items",
        "beams",
        "history",
        "batch",
        "users/s",
        "ms/request",
        "ms/step",
        "constraint ms/step",
        "peak MB",
    )
    rows = [
        (
            CONTENDERS[run["contender"]],
            f"{run['catalog_size']:,}",
            run["num_beams"],
            run["history"],
            run["batch_size"],
            f"{run['users_per_s']:.3g}",
            f"{run['ms_request']:.1f}",
            f"{run['ms_step']:.1f}",
            f"{run['ms_constraint']:.2f}",
            f"{run['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in run else "",
        )
        for run in results["runs"]
    ]
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(str(value).rjust(width) for value, width in zip(row, widths, strict=True)))
    for entry in results["not_built"]:
        print(f"{CONTENDERS[entry['contender']]} over {entry['catalog_size']:,} items: {entry['reason']}")
    lists, rates = results["lists"], results["rates"]
    if lists["mismatches"] is None:
        print(f"lists: not compared with generate's in {settings['dtype']}, where scores tie; use float32")
    else:
        print(f"lists: {lists['mismatches']} of {lists['users']} differ from generate's at {lists['num_beams']} beams")
    print(
        f"tokens: generate runs {summary['token_ceiling']:.1f} times as many as ours; "
        f"{summary['ceiling_share']:.0%} of that ratio reached"
    )
    print(
        f"roofline: a step moves {summary['step_bytes'] / 1e6:.0f} MB and computes {summary['step_flops'] / 1e9:.1f} "
        f"GFLOP; at {rates['bytes_per_s'] / 1e9:.1f} GB/s and {rates['flops_per_s'] / 1e9:.0f} GFLOP/s that takes "
        f"{summary['ms_step_roofline']:.1f} ms, {summary['roofline_share']:.0%} of the step"
    )
    print(f"weights alone, read once for each pass of a request: {summary['ms_request_weights']:.2f} ms")
    if settings["device"] != "cpu":
        for reference in REFERENCES:
            print(f"published, not measured here: {reference}")


def plot(results: dict[str, Any], path: Path) -> None:
    """Step and constraint time over the size of the catalog, and users a second of every contender."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    headline = results["settings"]["headline"]
    same = {key: headline[key] for key in ("num_beams", "history", "batch_size")}
    ours = [run for run in results["runs"] if run["contender"] == "ours" and same.items() <= run.items()]
    for key, label in (("ms_step", "step"), ("ms_constraint", "constraint")):
        left.loglog([run["catalog_size"] for run in ours], [run[key] for run in ours], "o-", label=label)
    left.set(xlabel="items in the catalog", ylabel="ms", title="BeamSearch, one level of the search")
    left.legend()
    settings = results["settings"]
    place = {
        "catalog_size": headline["catalog_size"],
        "num_beams": headline["num_beams"],
        "history": headline["history"],
        "batch_size": min(settings["batch_sizes"]),
    }
    bars = [run for run in results["runs"] if place.items() <= run.items()]
    right.barh([CONTENDERS[run["contender"]] for run in bars], [run["users_per_s"] for run in bars])
    right.set(xlabel="users a second", title=f"{headline['num_beams']} beams, {headline['history']} items of history")
    right.set_xscale("log")
    right.invert_yaxis()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
