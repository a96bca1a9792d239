"""Catalog-constrained beams against transformers' `generate`: users a second, steps, memory, the machine's limits.

    python -m benchmarks.decoding --quick

A small model, within a minute. Without --quick: a 135M-parameter Llama-shaped model (SmolLM2's configuration, random
weights), catalogs of 10 thousand to 10 million random items, every contender. On a GPU, for example:
`--device cuda --dtype bfloat16 --model qwen3-1.7b --num_codebooks 3 --histories 332 --beams 50 256 --batch_sizes 1 8`.

A step is one level of the search after the prompt: the model over the beams' tokens, the output head, the choice of
the next beams. The constraint is trie look-up, gathering, masking and the whole selection, top-k included. Lists are
checked item by item. The last line is for machines.
"""

import argparse
import gc
import math
import statistics
import sys
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from benchmarks.decoding_contenders import (
    CONTENDERS,
    Contender,
    Prompts,
    build_contender,
    equal_but_ties,
    why_not_built,
)
from benchmarks.decoding_measure import (
    Clock,
    ModelSizes,
    PeakMemory,
    forward_marks,
    hardware,
    machine_rates,
    timed_calls,
    timed_search,
    versions,
)
from benchmarks.decoding_report import plot, print_tables
from benchmarks.decoding_setup import MODEL_SHAPES, BenchmarkCatalog, Cell, Settings, build_model, make_prompts
from llmrec.atomic import write_json

OURS = ("ours", "ours_catalog")
TIE = 1e-4
QUICK = {
    "model": "tiny",
    "beams": [50],
    "histories": [20],
    "batch_sizes": [2],
    "catalog_sizes": [10_000, 1_000_000],
    "repeats": 5,
}

Catalogs = dict[int, BenchmarkCatalog]  # by number of items


class Sample(NamedTuple):
    """One timed call: seconds of all of it, of a step, and of the constraint in a step; entries that are no item."""

    seconds: float
    step: float
    constraint: float
    invalid: int


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    settings, output = parse(argv)
    say(f"model {settings.model} in {settings.dtype} on {settings.device}")
    model = build_model(settings)
    results: dict[str, Any] = {
        "settings": vars(settings) | {"headline": vars(settings.headline)},
        "hardware": hardware(settings.device),
        "versions": versions(),
        "rates": machine_rates(settings.device, settings.dtype),
        "lists": compare_lists(settings, model),
        "runs": [],
        "not_built": [],
    }
    catalogs = {size: BenchmarkCatalog(settings, size) for size in settings.catalog_sizes}
    for name in OURS:
        results["runs"] += run_sizes(name, settings, model, catalogs)
    for size, catalog in catalogs.items():
        for name in CONTENDERS:
            run_contender(name, settings, model, catalog, size, results)
            gc.collect()
    results["summary"] = summary(settings, model, results)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)
    plot(results, output.with_suffix(".png"))
    print_tables(results)
    keys = ("users_per_s_ratio", "memory_ratio", "constraint_share", "flatness", "invalid")
    print(" ".join(f"{key}={results['summary'][key]:.4g}" for key in keys))


def parse(argv: list[str] | None) -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a small run; other defaults: {QUICK}")
    parser.add_argument("--model", choices=MODEL_SHAPES, default="smollm2-135m", help="shape, with random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--histories", type=int, nargs="+", default=[20, 50], help="items in a user's history")
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[2, 8], help="the largest is used where ours meets one other"
    )
    parser.add_argument("--catalog_sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--num_codebooks", type=int, default=4, help="levels of a semantic ID, 256 codes each")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of ours, of which the median counts")
    parser.add_argument("--generate_repeats", type=int, default=1, help="the same for the others, which take minutes")
    parser.add_argument("--output", type=Path, help="JSON file; the picture goes beside it")
    if "--quick" in (sys.argv[1:] if argv is None else argv):
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    name = "decoding_quick.json" if args.quick else "decoding.json"
    output = args.output or Path("benchmarks/results") / name
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(args).items()}
    return Settings(**{key: value for key, value in values.items() if key not in ("quick", "output")}), output


def grid_of(name: str, settings: Settings, size: int) -> list[Cell]:
    """Where a contender is timed over a catalog, beside the headline's shape, which ours runs over every catalog."""
    ours = name in OURS
    smallest = min(settings.batch_sizes)
    if size != settings.shared_catalog_size:
        return [] if ours else [Cell(size, min(settings.beams), min(settings.histories), smallest)]
    batch_sizes = settings.batch_sizes if ours else (smallest,)
    cells = [Cell(size, *shape) for shape in product(settings.beams, settings.histories, batch_sizes)]
    if name == "generate_prefix_fn":
        cells.insert(0, settings.headline)
    return [cell for cell in dict.fromkeys(cells) if not ours or cell != settings.headline]


def run_sizes(name: str, settings: Settings, model: PreTrainedModel, catalogs: Catalogs) -> list[dict[str, Any]]:
    """Ours at the headline's shape over every catalog. They take turns: what slows the machine slows all alike."""
    shape = settings.headline
    prompts = make_prompts(settings, shape.history, shape.batch_size)
    contenders = {size: build_contender(name, model, catalog) for size, catalog in catalogs.items()}
    say(f"{CONTENDERS[name]}: catalogs of {', '.join(f'{size:,}' for size in catalogs)} items in turn")
    memory = first_call(contenders[shape.catalog_size], settings, prompts, shape.num_beams)
    for contender in contenders.values():
        contender.rank(prompts, shape.num_beams)
    samples: dict[int, list[Sample]] = {size: [] for size in catalogs}
    for _ in range(settings.repeats):
        for size, contender in contenders.items():
            samples[size].append(take_sample(contender, settings, model, catalogs[size], prompts, shape.num_beams))
    rows = []
    for size, contender in contenders.items():
        row = {"contender": name, **vars(shape), "catalog_size": size, "index_bytes": contender.index_bytes}
        rows.append(row | (memory if size == shape.catalog_size else {}) | medians(samples[size], shape.batch_size))
    return rows


def run_contender(
    name: str, settings: Settings, model: PreTrainedModel, catalog: BenchmarkCatalog, size: int, results: dict[str, Any]
) -> None:
    """Add a row to the results for each cell of the grid, or why there is none."""
    reason = why_not_built(name, size)
    cells = grid_of(name, settings, size)
    if reason is not None:
        results["not_built"].append({"contender": name, "catalog_size": size, "reason": reason})
    if reason is not None or not cells:
        return
    contender = build_contender(name, model, catalog)
    for cell in cells:
        say(f"{CONTENDERS[name]}: {cell}")
        try:
            run = measure(contender, settings, model, catalog, cell)
        except torch.OutOfMemoryError:
            results["not_built"].append({"contender": name, **vars(cell), "reason": f"out of memory at {cell}"})
            continue
        results["runs"].append({"contender": name, **vars(cell), "index_bytes": contender.index_bytes, **run})


def measure(
    contender: Contender, settings: Settings, model: PreTrainedModel, catalog: BenchmarkCatalog, cell: Cell
) -> dict[str, Any]:
    """Median users a second, ms a step, ms of the constraint a step; entries that are no item; memory, once."""
    prompts = make_prompts(settings, cell.history, cell.batch_size)
    ours = contender.search is not None
    run = {}
    if cell == settings.headline:
        run = first_call(contender, settings, prompts, cell.num_beams)
    elif ours:
        contender.rank(prompts, cell.num_beams)
    samples = [
        take_sample(contender, settings, model, catalog, prompts, cell.num_beams)
        for _ in range(settings.repeats if ours else settings.generate_repeats)
    ]
    return run | medians(samples, cell.batch_size)


def first_call(contender: Contender, settings: Settings, prompts: Prompts, num_beams: int) -> dict[str, Any]:
    """Peak memory of a call that is not timed."""
    peak = PeakMemory(settings.device)
    contender.rank(prompts, num_beams)
    return {"peak_bytes": peak.peak_bytes(), "peak_how": peak.how}


def take_sample(
    contender: Contender,
    settings: Settings,
    model: PreTrainedModel,
    catalog: BenchmarkCatalog,
    prompts: Prompts,
    num_beams: int,
) -> Sample:
    """One timed call, its lists checked."""
    clock, levels = Clock(settings.device), settings.num_codebooks
    with forward_marks(model, clock) as marks, constraint_marks(contender, clock) as spans:
        start = clock.mark()
        output = contender.rank(prompts, num_beams)
        end = clock.mark()
    # without beams of its own, a search's first choice follows the prompt: it is no step
    steps = clock.seconds(marks[-(levels - 1)], end)
    constraint = sum(clock.seconds(*span) for span in spans[-(len(spans) * (levels - 1) // levels) :])
    invalid = contender.lists(output).count_invalid(catalog)
    return Sample(clock.seconds(start, end), steps / (levels - 1), constraint / (levels - 1), invalid)


def medians(samples: list[Sample], batch_size: int) -> dict[str, Any]:
    """Figures of a row: times are medians, entries that are no item are counted over all samples."""
    seconds, step, constraint, invalid = zip(*samples, strict=True)
    return {
        "users_per_s": batch_size / statistics.median(seconds),
        "ms_request": 1000 * statistics.median(seconds),
        "ms_step": 1000 * statistics.median(step),
        "ms_constraint": 1000 * statistics.median(constraint),
        "invalid": sum(invalid),
    }


def constraint_marks(contender: Contender, clock: Clock) -> Any:
    """Spans of all that is constraint: a processor's calls, or everything in our step but model and head."""
    if contender.processor is not None:
        return timed_calls(contender.processor, clock)
    return timed_search(contender.search, clock)


def compare_lists(settings: Settings, model: PreTrainedModel) -> dict[str, Any]:
    """Lists of ours and of ``generate`` over the smallest catalog: how many differ by more than ties in float32.

    Mismatches are None at other precisions: two ways to compute a score differ there by more than its neighbour does.
    """
    catalog = BenchmarkCatalog(settings, min(settings.catalog_sizes), unique=True)
    beams = min(settings.beams)
    prompts = make_prompts(settings, min(settings.histories), min(settings.batch_sizes))
    say("lists of ours against those of generate")
    ours, theirs = (
        contender.lists(contender.rank(prompts, beams))
        for contender in (build_contender(name, model, catalog) for name in ("ours", "generate_prefix_fn"))
    )
    return {
        "users": len(prompts),
        "num_beams": beams,
        "invalid": ours.count_invalid(catalog) + theirs.count_invalid(catalog),
        "mismatches": sum(not equal_but_ties(*pair, TIE) for pair in zip(ours.scored(), theirs.scored(), strict=True))
        if settings.dtype == "float32"
        else None,
    }


def summary(settings: Settings, model: PreTrainedModel, results: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last line, and how near the machine's limits the headline comes.

    The two ratios are NaN where ``generate`` found no memory for the headline.
    """
    cell = settings.headline
    runs = results["runs"]

    def at(name: str, size: int) -> dict[str, Any]:
        place = {**vars(cell), "catalog_size": size, "contender": name}
        return next((run for run in runs if place.items() <= run.items()), {})

    ours, generate = at("ours", cell.catalog_size), at("generate_prefix_fn", cell.catalog_size)
    smallest, largest = (at("ours", pick(settings.catalog_sizes)) for pick in (min, max))
    prompt = len(make_prompts(settings, cell.history, 1)[0])
    later = settings.num_codebooks - 1
    tokens_generate = cell.num_beams * (prompt + later)
    ceiling = tokens_generate / (prompt + later * cell.num_beams)
    sizes = ModelSizes.of(model)
    work = sizes.work(model.config.vocab_size, cell.batch_size, cell.num_beams, prompt, settings.num_codebooks / 2)
    least = work.seconds(results["rates"])
    ratio = ours["users_per_s"] / generate.get("users_per_s", math.nan)
    weights = sizes.work(model.config.vocab_size, 0, 0, 0, 0)
    return {
        "users_per_s_ratio": ratio,
        "memory_ratio": ours["peak_bytes"] / generate.get("peak_bytes", math.nan),
        "constraint_share": largest["ms_constraint"] / largest["ms_step"],
        "flatness": largest["ms_step"] / smallest["ms_step"],
        "invalid": sum(run["invalid"] for run in runs) + results["lists"]["invalid"],
        "token_ceiling": ceiling,
        "ceiling_share": ratio / ceiling,
        "step_bytes": work.bytes,
        "step_flops": work.flops,
        "ms_step_roofline": 1000 * least,
        "roofline_share": 1000 * least / ours["ms_step"],
        "ms_request_weights": 1000 * settings.num_codebooks * weights.seconds(results["rates"]),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
