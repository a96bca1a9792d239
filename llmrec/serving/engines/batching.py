"""An engine in this process whose requests wait in one queue and run in batches."""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil

import torch

from llmrec.serving.engines.engine import Engine, LoadedCatalog, RankedList, RankRequest


@dataclass
class Pending:
    """A request that waits, or is being answered."""

    loaded: LoadedCatalog
    request: RankRequest
    answer: "asyncio.Future[RankedList]"


class BatchingEngine(Engine):
    """Ranks in a thread for each worker, batch after batch.

    What arrives while batches run makes up the next ones, shared among the workers that are free: an idle server
    answers at once, a busy one in full batches.

    Args:
        max_batch_size: lists in one batch.
        num_workers: batches at a time; None takes 1 on a GPU, and up to 4 on a CPU.
    """

    name = "transformers"

    def __init__(self, max_batch_size: int, num_workers: int | None) -> None:
        self._max_batch_size = max_batch_size
        self._num_workers = num_workers
        self._waiting: deque[Pending] = deque()
        self._arrived = asyncio.Condition()
        self._free = 0
        self._workers: list[asyncio.Task[None]] = []
        # a number of threads that one thread sets is also what threads that come later start with: each sets its own
        self._threads = torch.get_num_threads()

    @abstractmethod
    def batch_key(self, pending: Pending) -> Hashable:
        """Requests that agree in it can run as one batch."""

    @abstractmethod
    def search(self, batch: Sequence[Pending]) -> list[RankedList]:
        """Answer requests with the same key; in a worker's thread."""

    def start_workers(self, device: torch.device) -> None:
        """Begin to answer, with a model on ``device``."""
        num_workers, threads = _workers(device, self._num_workers, self._threads)
        self._ranking = ThreadPoolExecutor(num_workers, "rank", initializer=torch.set_num_threads, initargs=(threads,))
        self._workers = [asyncio.create_task(self._run()) for _ in range(num_workers)]

    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        answer = asyncio.get_running_loop().create_future()
        async with self._arrived:
            self._waiting.append(Pending(loaded, request, answer))
            self._arrived.notify()
        return await answer

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

    async def _run(self) -> None:
        while True:
            async with self._arrived:
                self._free += 1
                await self._arrived.wait_for(lambda: self._waiting)
                batch = self._take_batch()
                self._free -= 1
            await asyncio.get_running_loop().run_in_executor(self._ranking, self._rank_batch, batch)

    def _take_batch(self) -> list[Pending]:
        """The oldest request and those behind it that can run with it, as many as are this worker's share."""
        key = self.batch_key(self._waiting[0])
        alike = [pending for pending in self._waiting if self.batch_key(pending) == key]
        batch = alike[: min(self._max_batch_size, ceil(len(alike) / self._free))]
        taken = set(map(id, batch))
        self._waiting = deque(pending for pending in self._waiting if id(pending) not in taken)
        return [pending for pending in batch if not pending.answer.done()]

    def _rank_batch(self, batch: Sequence[Pending]) -> None:
        """Answer every request; where a batch fails, one by one, so that a bad request fails alone."""
        if not batch:
            return
        loop = batch[0].answer.get_loop()
        try:
            answers: Sequence[RankedList | Exception] = self.search(batch)
        except Exception as error:
            if len(batch) > 1:
                for pending in batch:
                    self._rank_batch([pending])
                return
            answers = [error]
        for pending, answer in zip(batch, answers, strict=True):
            loop.call_soon_threadsafe(_resolve, pending.answer, answer)


def _workers(device: torch.device, num_workers: int | None, cores: int) -> tuple[int, int]:
    """Batches at a time, and threads for each."""
    if device.type != "cpu":
        return num_workers or 1, cores
    num_workers = num_workers or min(cores, 4)
    return num_workers, max(1, cores // num_workers)


def _resolve(future: "asyncio.Future[RankedList]", answer: RankedList | Exception) -> None:
    if future.done():  # the client went away
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
