"""The engine in this process: our beam search with dynamic batching, and free text through ``generate``."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from math import ceil

import torch

from llmrec.catalog import Catalog
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.trace import BeamTrace
from llmrec.serving.checkpoint import EngineOptions, ServedCheckpoint
from llmrec.serving.engines.engine import Engine, LoadedCatalog, RankedList, RankRequest, TextChunk, TextRequest
from llmrec.serving.engines.ranked_lists import ranked_lists
from llmrec.serving.engines.text_generation import TextGeneration
from llmrec.trie import Trie


@dataclass(frozen=True)
class _Searched(LoadedCatalog):
    search: BeamSearch


@dataclass
class _Pending:
    loaded: _Searched
    request: RankRequest
    answer: "asyncio.Future[RankedList]"

    @property
    def key(self) -> tuple[int, int, int | None, int | None]:
        """Requests that agree in it can run as one batch: only the cap on a first code depends on the list length."""
        request = self.request
        k = None if request.max_per_first_code is None else request.k
        return id(self.loaded), request.num_beams, k, request.max_per_first_code


class TransformersEngine(Engine):
    """Ranks in a thread for each worker, batch after batch, and writes text in another.

    What arrives while batches run makes up the next ones, shared among the workers that are free: an idle server
    answers at once, a busy one in full batches.

    Args:
        checkpoint: to serve.
        options: of these, ``scores``, ``device``, ``dtype``, ``max_batch_size`` and ``num_workers``.
    """

    name = "transformers"

    def __init__(self, checkpoint: ServedCheckpoint, options: EngineOptions) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._waiting: deque[_Pending] = deque()
        self._arrived = asyncio.Condition()
        self._free = 0
        self._workers: list[asyncio.Task[None]] = []
        # a number of threads that one thread sets is also what threads that come later start with: each sets its own
        self._threads = torch.get_num_threads()
        self._writing = ThreadPoolExecutor(1, "write", initializer=torch.set_num_threads, initargs=(self._threads,))

    async def start(self) -> None:
        options = self._options
        self._model = await asyncio.to_thread(self._checkpoint.load_model, options.device, options.dtype)
        num_workers, threads = _workers(self._model.device, options.num_workers, self._threads)
        self._ranking = ThreadPoolExecutor(num_workers, "rank", initializer=torch.set_num_threads, initargs=(threads,))
        self._workers = [asyncio.create_task(self._run()) for _ in range(num_workers)]

    async def load(self, catalog: Catalog) -> LoadedCatalog:
        return await asyncio.to_thread(self._load_catalog, catalog)

    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        assert isinstance(loaded, _Searched)
        answer = asyncio.get_running_loop().create_future()
        async with self._arrived:
            self._waiting.append(_Pending(loaded, request, answer))
            self._arrived.notify()
        return await answer

    async def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:
        generation = TextGeneration(self._model, self._checkpoint.tokenizer, request)
        async with aclosing(generation.run(self._writing)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def check(self) -> None:
        if not self._workers or any(worker.done() for worker in self._workers):
            raise RuntimeError("A worker that ranks has ended.")

    async def close(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.01)
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.to_thread(self._ranking.shutdown)
        await asyncio.to_thread(self._writing.shutdown)

    def _load_catalog(self, catalog: Catalog) -> _Searched:
        torch.set_num_threads(self._threads)
        renderer = self._checkpoint.renderer(catalog)
        trie = Trie.from_semantic_ids(catalog.semantic_ids)
        device_trie = DeviceTrie(trie, renderer.vocabulary.code_token_ids, self._model.device)
        search = BeamSearch(self._model, device_trie, self._options.scores or self._checkpoint.scores)
        return _Searched(catalog, renderer, device_trie, search)

    async def _run(self) -> None:
        while True:
            async with self._arrived:
                self._free += 1
                await self._arrived.wait_for(lambda: self._waiting)
                batch = self._take_batch()
                self._free -= 1
            await asyncio.get_running_loop().run_in_executor(self._ranking, _rank_batch, batch)

    def _take_batch(self) -> list[_Pending]:
        """The oldest request and those behind it that can run with it, as many as are this worker's share."""
        key = self._waiting[0].key
        alike = [pending for pending in self._waiting if pending.key == key]
        batch = alike[: min(self._options.max_batch_size, ceil(len(alike) / self._free))]
        taken = set(map(id, batch))
        self._waiting = deque(pending for pending in self._waiting if id(pending) not in taken)
        return [pending for pending in batch if not pending.answer.done()]


def _workers(device: torch.device, num_workers: int | None, cores: int) -> tuple[int, int]:
    """Batches at a time, and threads for each."""
    if device.type != "cpu":
        return num_workers or 1, cores
    num_workers = num_workers or min(cores, 4)
    return num_workers, max(1, cores // num_workers)


def _rank_batch(batch: Sequence[_Pending]) -> None:
    """Answer every request; where a batch fails, one by one, so that a bad request fails alone."""
    if not batch:
        return
    loop = batch[0].answer.get_loop()
    try:
        answers: Sequence[RankedList | Exception] = _search(batch)
    except Exception as error:
        if len(batch) > 1:
            for pending in batch:
                _rank_batch([pending])
            return
        answers = [error]
    for pending, answer in zip(batch, answers, strict=True):
        loop.call_soon_threadsafe(_resolve, pending.answer, answer)


def _resolve(future: "asyncio.Future[RankedList]", answer: RankedList | Exception) -> None:
    if future.done():  # the client went away
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _search(batch: Sequence[_Pending]) -> list[RankedList]:
    search, requests = batch[0].loaded.search, [pending.request for pending in batch]
    trace, first = BeamTrace(), requests[0]
    ranked = search(
        [request.prompt for request in requests],
        first.num_beams,
        max(request.k for request in requests),
        [request.rules for request in requests],
        first.max_per_first_code,
        trace,
    )
    return ranked_lists(search.trie, ranked, trace, requests)
