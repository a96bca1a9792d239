"""A client of completions servers: a closed loop of concurrent users, and what is in the answers."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import numpy as np
from tqdm.auto import tqdm

from benchmarks.decoding_contenders import ScoredKeys

TIMEOUT_SECONDS = 120.0
#: How a stock server shows a beam that ran out: a masked token's log-probability, made fit for JSON.
DEAD_LOG_PROB = -9999.0


class Reply(NamedTuple):
    """What came back.

    Attributes:
        seconds: from sending to the last byte.
        status: of HTTP; 0 where none came.
        body: bytes, or the error's text.
    """

    seconds: float
    status: int
    body: bytes


@dataclass(frozen=True)
class Load:
    """Replies of a cell, in the order of the requests, and the seconds that all of them took together."""

    replies: list[Reply]
    seconds: float

    def figures(self) -> dict[str, float]:
        """Throughput in requests a second; latencies in ms. Of the replies with an answer."""
        milliseconds = [1000 * reply.seconds for reply in self.replies if reply.status == httpx.codes.OK]
        p50, p99 = np.percentile(milliseconds, [50, 99]) if milliseconds else (math.nan, math.nan)
        return {"requests_per_s": len(milliseconds) / self.seconds, "p50_ms": float(p50), "p99_ms": float(p99)}


def closed_loop(
    url: str,
    bodies: Sequence[dict[str, Any]],
    users: int,
    label: str = "",
    headers: dict[str, str] | None = None,
    at_request: Callable[[int], None] | None = None,
) -> Load:
    """Send every body once. Each of ``users`` asks again as soon as it has its answer.

    Args:
        url: to post to.
        bodies: of the requests.
        users: at most so many requests are in flight.
        label: of the progress bar.
        headers: of every request.
        at_request: called with the number of requests started before, ahead of each.
    """
    return asyncio.run(_closed_loop(url, bodies, users, label, headers or {}, at_request))


async def _closed_loop(
    url: str,
    bodies: Sequence[dict[str, Any]],
    users: int,
    label: str,
    headers: dict[str, str],
    at_request: Callable[[int], None] | None,
) -> Load:
    contents = [json.dumps(body).encode() for body in bodies]
    replies: list[Reply | None] = [None] * len(contents)
    waiting = iter(enumerate(contents))
    limits = httpx.Limits(max_connections=users, max_keepalive_connections=users)
    async with httpx.AsyncClient(
        limits=limits, timeout=TIMEOUT_SECONDS, headers={"Content-Type": "application/json", **headers}
    ) as client:
        with tqdm(total=len(contents), desc=label, unit="request", leave=False) as bar:

            async def user() -> None:
                # the iterator is shared: whoever is free takes the next
                for index, content in waiting:
                    if at_request is not None:
                        at_request(index)
                    replies[index] = await _post(client, url, content)
                    bar.update()

            start = time.perf_counter()
            await asyncio.gather(*(user() for _ in range(users)))
            seconds = time.perf_counter() - start
    return Load([reply for reply in replies if reply is not None], seconds)


async def _post(client: httpx.AsyncClient, url: str, content: bytes) -> Reply:
    start = time.perf_counter()
    try:
        response = await client.post(url, content=content)
    except httpx.HTTPError as error:
        return Reply(time.perf_counter() - start, 0, repr(error).encode())
    return Reply(time.perf_counter() - start, response.status_code, response.content)


def completion_body(model: str, prompt: Sequence[int], num_beams: int, num_codebooks: int) -> dict[str, Any]:
    """The one request that every server understands: as many choices as beams, with their tokens' scores."""
    return {
        "model": model,
        "prompt": list(prompt),
        "n": num_beams,
        "num_beams": num_beams,  # llmrec's own field: stock vLLM searches as wide as n, and passes over this
        "use_beam_search": True,
        "max_tokens": num_codebooks,
        "temperature": 0,
        "logprobs": 0,
    }


def completion_list(reply: Reply) -> ScoredKeys:
    """(text, score) of the choices of an answer, best first; beams that ran out are none."""
    found = []
    for choice in json.loads(reply.body)["choices"]:
        log_probs = choice["logprobs"]["token_logprobs"]
        if all(value > DEAD_LOG_PROB for value in log_probs):
            found.append((choice["text"], float(sum(log_probs))))
    return found


def count_faults(lists: Iterable[ScoredKeys], known: frozenset[str]) -> dict[str, int]:
    """Entries that are no item of the catalogue, and entries that stand in a list a second time."""
    keys = [[key for key, _ in entries] for entries in lists]
    return {
        "invalid": sum(key not in known for entries in keys for key in entries),
        "duplicates": sum(len(entries) - len(set(entries)) for entries in keys),
    }


def recommendation_body(history: Sequence[str], num_beams: int, k: int, **fields: Any) -> dict[str, Any]:
    """One user of ``/v1/recommendations``; ``fields`` are further ones of the request."""
    return {"users": [{"history": list(history)}], "num_beams": num_beams, "k": k, **fields}


class Recommended(NamedTuple):
    """The list of the one user that was asked for, and the catalogue that it names."""

    items: ScoredKeys  # (item id, score)
    catalog: str


def recommended(reply: Reply) -> Recommended:
    """What a reply of ``/v1/recommendations`` says, best first."""
    body = json.loads(reply.body)
    items = [(item["item_id"], item["score"]) for item in body["data"][0]["items"]]
    return Recommended(items, body["catalog"])


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels, from ``/metrics``."""
    answer = httpx.get(f"{url}/metrics", timeout=30)
    answer.raise_for_status()
    lines = [line for line in answer.text.splitlines() if line.partition(" ")[0].partition("{")[0] == name]
    if not lines:
        raise ValueError(f"{url}/metrics has no {name}.")
    return sum(float(line.rpartition(" ")[2]) for line in lines)
