"""The application over real HTTP, in a thread; and an engine that does what a test tells it."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from llmrec.catalog import Catalog
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.serving.checkpoint import EngineOptions, Served, ServedCheckpoint, make_engine
from llmrec.serving.engines.engine import Engine, LoadedCatalog, RankedList, RankRequest, TextChunk, TextRequest
from llmrec.serving.http.app import create_app
from llmrec.serving.http.settings import ServerSettings
from llmrec.trie import Trie


class ToldEngine(Engine):
    """Ranks items in the catalogue's order and writes "a b c ..."; waits where it is told to.

    Attributes:
        alive: what ``check`` tells.
        go: cleared, it holds back every answer.
        answer: what to return in place of a list, or an error to raise.
        started, cancelled: lists and texts that were begun, and that were given up.
    """

    name = "told"

    def __init__(self, checkpoint: ServedCheckpoint) -> None:
        self._checkpoint = checkpoint
        self.go = threading.Event()
        self.go.set()
        self.answer: RankedList | Exception | None = None
        self.started = self.cancelled = 0
        self.alive = True

    async def start(self) -> None:
        pass

    async def check(self) -> None:
        if not self.alive:
            raise RuntimeError("stopped")

    async def load(self, catalog: Catalog, folder: Path) -> LoadedCatalog:  # noqa: ARG002 -- the interface's
        trie = Trie.from_semantic_ids(catalog.semantic_ids)
        device_trie = DeviceTrie(trie, self._checkpoint.vocabulary.code_token_ids)
        return LoadedCatalog(catalog, self._checkpoint.prompter(catalog), device_trie)

    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        await self._wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        items = (
            [item for item in range(len(loaded.catalog)) if item not in request.rules.exclude] if request.rules else [0]
        )
        items = items[: request.k]
        return RankedList(items, [-1.0] * len(items), [[-1.0 / 3] * 3] * len(items))

    async def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:
        for place in range(request.max_tokens):
            await self._wait()
            if isinstance(self.answer, Exception) and place == 1:
                raise self.answer
            last = place + 1 == request.max_tokens
            yield TextChunk(f"{chr(97 + place % 26)} ", 1, "length" if last else None)

    async def close(self) -> None:
        pass

    async def _wait(self) -> None:
        self.started += 1
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@contextmanager
def running(
    checkpoint: Served, engine: Engine | None = None, http: str = "auto", **settings: Any
) -> Iterator[httpx.Client]:
    """A client of a server in this process; without an ``engine``, of the transformers one."""
    engine = engine or make_engine("transformers", checkpoint, EngineOptions(device="cpu"))
    app = create_app(checkpoint, engine, ServerSettings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, http=http, lifespan="on", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    logging.getLogger("llmrec").setLevel(logging.INFO)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive(), "the server did not stop"


def wait_until(condition: Any, seconds: float = 10) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in OpenAI's shape, after checking that it is one."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error
