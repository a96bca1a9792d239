"""Tables and the picture of benchmarks/serving.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.serving_process import SERVERS
from llmrec.atomic import atomic_path

matplotlib.use("Agg")

COLUMNS = ("server", "beams", "users", "requests/s", "p50 ms", "p99 ms", "cpu ms", "errors", "invalid", "duplicates")


def print_tables(results: dict[str, Any]) -> None:
    """Every run, what the servers needed, whether their lists agree."""
    machine = {**results["hardware"], **results["versions"]}
    print(f"\n{results['workload']}\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    _print_columns([COLUMNS, *(_row(run) for run in results["runs"])])
    for server in results["servers"]:
        started, ended = (server[f"resident_bytes_{when}"] / 1e6 for when in ("started", "ended"))
        print(
            f"{SERVERS[server['server']]}: up in {server['startup_seconds']:.0f} s, {started:.0f} MB, {ended:.0f} MB "
            f"after the run; the first cell again at {server['drift']:.2f} times its speed"
        )
    for entry in results["not_run"]:
        print(f"{SERVERS[entry['server']]} did not run: {entry['reason']}")
    for pair in results["lists"]:
        first, second = (SERVERS[name] for name in pair["servers"])
        print(
            f"{first} and {second}: {pair['identical']} of {pair['lists']} lists identical, "
            f"{pair['equal_but_ties']} equal but for ties"
        )
    place = results["settings"]["headline"]
    for name, ratio in results["summary"]["ratios"].items():
        print(
            f"{SERVERS[name]}: {ratio:.2f} times stock vLLM's requests a second "
            f"at {place['num_beams']} beams, {place['users']} users"
        )


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    figures = (f"{run[name]:.1f}" for name in ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms"))
    counts = (str(run[name]) for name in ("errors", "invalid", "duplicates"))
    return (SERVERS[run["server"]], str(run["num_beams"]), str(run["users"]), *figures, *counts)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(value.rjust(width) for value, width in zip(row, widths, strict=True)))


def plot(results: dict[str, Any], path: Path) -> None:
    """Requests a second over concurrent users, a panel for each width."""
    widths = results["settings"]["beams"]
    figure = Figure(figsize=(3.6 * len(widths) + 1, 3.6), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False)[0]
    for panel, width in zip(panels, widths, strict=True):
        for name in results["settings"]["engines"]:
            runs = [run for run in results["runs"] if run["server"] == name and run["num_beams"] == width]
            if runs:
                panel.plot(
                    [run["users"] for run in runs], [run["requests_per_s"] for run in runs], "o-", label=SERVERS[name]
                )
        panel.set(title=f"{width} beams", xlabel="concurrent users", xscale="log", ylim=(0, None))
        panel.set_xticks(results["settings"]["users"], labels=map(str, results["settings"]["users"]))
        panel.minorticks_off()
    panels[0].set_ylabel("requests a second")
    panels[0].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
