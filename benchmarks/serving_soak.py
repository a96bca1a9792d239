"""Does `llmrec serve` hold? Thousands of requests, clients that vanish or crawl, and a catalogue swapped under load.

    python -m benchmarks.serving_soak --engine transformers --checkpoint outputs/demo --dataset_dir data/ml-100k
    python -m benchmarks.serving_soak --engine vllm --reload

`/v1/recommendations` with users' histories. Half-way, a client process with requests under way is killed (SIGKILL),
and slow readers, who take a byte a second, stay until the end. No request may fail, no list may hold an item that is
not in the catalogue, that it has already, or that the user has seen; the server's memory may not grow by more than 5 %
after the first quarter; nothing may be left in its queue. The heap of vLLM's engine process, stock servers included,
takes some 5,000 requests to reach its size: `--warm_up 5000` starts there. With --reload the catalogue is swapped 10
times during 500 requests instead, between two with items that the other lacks: every list must belong to the one that
its answer names, and new items must turn up. The exit status is 1 where
something does not hold. The last line is for machines.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from benchmarks.decoding_measure import hardware, versions
from benchmarks.serving import server_versions, shown
from benchmarks.serving_client import Load, closed_loop, count_faults, metric, recommendation_body, recommended
from benchmarks.serving_process import ADMIN_KEY, OURS, Server, serving
from benchmarks.serving_setup import Workload, load_workload
from llmrec.atomic import write_json
from llmrec.catalog import Catalog

GROWTH = 0.05  # of resident memory, from the first quarter to the end
ABANDONED, SLOW_READERS, SLOW_USERS = 8, 6, 32
SWAPS, CHANGED_ITEMS = 10, 50


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with tempfile.TemporaryDirectory(prefix="llmrec-soak-") as name:
        folder = Path(name)
        workload = load_workload(args.checkpoint, args.dataset_dir, folder, args.seed)
        with serving(args.engine, workload.checkpoint.folder, args.num_beams, folder / "server.log") as server:
            run = reload_under_load if args.reload else soak
            figures = run(server, workload, args, folder)
    results = {
        "settings": shown(vars(args)),
        "workload": workload.description,
        "hardware": hardware("cpu"),
        "versions": versions() | server_versions(),
        **server.description(),
        **figures,
    }
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, results)
    print(json.dumps(results, indent=2))
    print(" ".join(f"{key}={value:.4g}" for key, value in figures.items() if not isinstance(value, list)))
    sys.exit(int(not figures["holds"]))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=OURS, default="transformers", help="(%(default)s)")
    parser.add_argument("--checkpoint", help="folder of a recipe that has finished; a model is made up without")
    parser.add_argument("--dataset_dir", help="the dataset folder it was trained on; histories are made up without")
    parser.add_argument("--reload", action="store_true", help="swap the catalogue under load instead")
    parser.add_argument("--requests", type=int, help="(2000; with --reload 500)")
    parser.add_argument("--users", type=int, default=32, help="concurrent users (%(default)s)")
    parser.add_argument("--num_beams", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="list length (%(default)s)")
    parser.add_argument("--warm_up", type=int, default=64, help="requests before memory is looked at (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write as well")
    args = parser.parse_args(argv)
    args.requests = args.requests or (500 if args.reload else 2000)
    return args


def soak(server: Server, workload: Workload, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ask, misbehave half-way, ask on; figures, and whether all that must hold does."""
    url = f"{server.url}/v1/recommendations"
    users = [workload.histories[index % len(workload.histories)] for index in range(args.requests)]
    bodies = [recommendation_body(history, args.num_beams, args.k) for history in users]
    slow = bodies[0] | {"users": [{"history": history} for history in users[:SLOW_USERS]], "trace": True}
    closed_loop(url, list(islice(cycle(bodies), args.warm_up)), args.users, "warm-up")
    resident: list[float] = []
    with ExitStack() as half_way, ThreadPoolExecutor(1) as thread:
        work: list[Future[None]] = []

        def misbehave() -> None:
            half_way.enter_context(nuisance("slow", url, slow, SLOW_READERS, folder))
            with nuisance("abandon", url, bodies[0], ABANDONED, folder):
                pass  # sent, and killed at once

        def at_request(index: int) -> None:
            if index % max(1, args.requests // 4) == 0:
                resident.append(server.resident_bytes() / 1e6)
            if index == args.requests // 2:
                work.append(thread.submit(misbehave))

        load = closed_loop(url, bodies, args.users, f"{args.engine}, {args.users} users", at_request=at_request)
        for future in work:
            future.result()
        resident.append(server.resident_bytes() / 1e6)
    figures = load.figures() | faults_of(load, users, workload.checkpoint.catalog)
    figures |= server_counts(server, resident)
    holds = not any(figures[name] for name in ("errors", "invalid", "duplicates", "seen", "invalid_beams", "queue"))
    return figures | {"resident_mb": resident, "holds": holds and figures["growth"] <= GROWTH}


def faults_of(load: Load, users: Sequence[Sequence[str]], catalog: Catalog) -> dict[str, int]:
    """Requests without an answer, and what is wrong in the lists of the others."""
    answered = [reply.status == httpx.codes.OK for reply in load.replies]
    lists = [recommended(reply).items if ok else [] for reply, ok in zip(load.replies, answered, strict=True)]
    seen = sum(key in set(history) for items, history in zip(lists, users, strict=True) for key, _ in items)
    counts = count_faults(lists, frozenset(catalog.item_ids))
    return {"requests": len(load.replies), "errors": answered.count(False), **counts, "seen": seen}


def server_counts(server: Server, resident: Sequence[float]) -> dict[str, float]:
    """What the server has to say of itself when all clients have gone, and how much it grew."""
    deadline = time.monotonic() + 60
    while (queue := metric(server.url, "llmrec_queue_lists")) > 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    return {
        "invalid_beams": metric(server.url, "llmrec_invalid_beams_total"),
        "queue": queue,
        "growth": resident[-1] / resident[1] - 1,
    }


@contextmanager
def nuisance(kind: str, url: str, body: dict[str, Any], count: int, folder: Path) -> Iterator[None]:
    """A process with ``count`` requests under way; killed at the end."""
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(body))
    command = [sys.executable, "-m", "benchmarks.serving_nuisance", kind, url, str(path), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"sent\n":
                raise RuntimeError(f"{' '.join(command)} could not send its requests.")
            yield
        finally:
            process.kill()


def reload_under_load(server: Server, workload: Workload, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ask while the catalogue changes; figures, and whether all that must hold does."""
    catalogs = changed_catalogs(workload.checkpoint.catalog, args.seed)
    for name, catalog in catalogs.items():
        catalog.save(folder / name)
    url = f"{server.url}/v1/recommendations"
    users = [workload.histories[index % len(workload.histories)] for index in range(args.requests)]
    bodies = [recommendation_body(history, args.num_beams, args.k, unknown_items="skip") for history in users]
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    starts = {(swap + 1) * args.requests // (SWAPS + 1): swap for swap in range(SWAPS)}
    last = args.requests - args.users
    with ThreadPoolExecutor(1) as thread:
        swaps: list[Future[str]] = []

        def swap_to(name: str) -> str:
            path, body = f"{server.url}/v1/catalog/reload", {"folder": str(folder / name)}
            answer = httpx.post(path, json=body, headers=headers, timeout=120)
            answer.raise_for_status()
            return answer.json()["catalog"]

        def at_request(index: int) -> None:
            # a swap slower than the requests is waited for, so that every catalogue answers some
            if swaps and (index in starts or index == last):
                swaps[-1].result()
            if index in starts:
                swaps.append(thread.submit(swap_to, list(catalogs)[starts[index] % len(catalogs)]))

        load = closed_loop(url, bodies, args.users, f"{args.engine}, reloads", at_request=at_request)
        swapped = [future.result() for future in swaps]
    known = {catalog.fingerprint: catalog for catalog in (workload.checkpoint.catalog, *catalogs.values())}
    figures = load.figures() | mixed_lists(load, known) | {"swaps": len(swapped)}
    figures["invalid_beams"] = metric(server.url, "llmrec_invalid_beams_total")
    holds = not any(figures[name] for name in ("errors", "mixed", "duplicates", "invalid_beams"))
    met = figures["catalogs"] == len(known) and figures["new_items"] > 0
    return figures | {"holds": holds and met and len(swapped) == SWAPS}


def changed_catalogs(catalog: Catalog, seed: int) -> dict[str, Catalog]:
    """Two catalogues that each lack items of ``catalog``, different ones, and have new ones of their own."""
    rng = np.random.default_rng(seed)
    count = min(CHANGED_ITEMS, len(catalog) // 4)
    order = rng.permutation(len(catalog))
    return {
        name: changed(catalog, name, order[part * count : (part + 1) * count], rng)
        for part, name in enumerate(("spring", "autumn"))
    }


def changed(catalog: Catalog, name: str, dropped: np.ndarray, rng: np.random.Generator) -> Catalog:
    """Without the rows ``dropped``; new items have their IDs, so that a mixture shows, and free ones beside others."""
    kept = np.setdiff1d(np.arange(len(catalog)), dropped)
    taken = {tuple(row) for row in catalog.semantic_ids.tolist()}
    new = [tuple(row) for row in catalog.semantic_ids[dropped].tolist()]
    for near in catalog.semantic_ids[rng.choice(kept, len(dropped))].tolist():
        free = ((*near[:-1], code) for code in range(catalog.codebook_sizes[-1]))
        semantic_id = next((candidate for candidate in free if candidate not in taken), None)
        if semantic_id is not None:
            taken.add(semantic_id)
            new.append(semantic_id)
    rows = [
        {"item_id": f"{name}-{number}", "title": f"New in {name}, {number}", "description": "", "brand": ""}
        for number in range(len(new))
    ]
    added = pa.Table.from_pylist([row | {"categories": []} for row in rows], schema=catalog.items.schema)
    semantic_ids = np.concatenate([catalog.semantic_ids[kept], np.array(new, dtype=np.int32)])
    return Catalog(pa.concat_tables([catalog.items.take(kept), added]), semantic_ids, catalog.codebook_sizes)


def mixed_lists(load: Load, known: dict[str, Catalog]) -> dict[str, int]:
    """Requests without an answer, lists that do not belong to the catalogue they name, and what was met.

    ``new_items`` are entries that the catalogue served at the start does not have.
    """
    first = next(iter(known.values()))
    answers = [recommended(reply) for reply in load.replies if reply.status == httpx.codes.OK]
    mixed = sum(
        answer.catalog not in known or any(key not in known[answer.catalog].item_index for key, _ in answer.items)
        for answer in answers
    )
    lists = [answer.items for answer in answers]
    return {
        "requests": len(load.replies),
        "errors": len(load.replies) - len(answers),
        "mixed": mixed,
        "duplicates": sum(len(items) - len({key for key, _ in items}) for items in lists),
        "new_items": sum(key not in first.item_index for items in lists for key, _ in items),
        "catalogs": len({answer.catalog for answer in answers}),
    }


if __name__ == "__main__":
    main()
