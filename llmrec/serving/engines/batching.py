"""Requests that wait in one queue and run in batches, in threads of this process; and engines that rank that way."""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

import torch

from llmrec.serving.engines.engine import Engine, LoadedCatalog, RankedList, RankRequest

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass
class _Waiting(Generic[Request, Answer]):
    request: Request
    answer: "asyncio.Future[Answer]"


class Batcher(Generic[Request, Answer]):
    """Answers in a thread for each worker, batch after batch.

    What arrives while batches run makes up the next ones, shared among the workers that are free: an idle server
    answers at once, a busy one in full batches.

    Args:
        answer: requests with the same key -> an answer to each; in a worker's thread.
        key: requests that agree in it can run as one batch.
        max_batch_size: requests in one batch.
        num_workers: batches at a time; None takes 1 on a GPU, and up to 4 on a CPU.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Request]], Sequence[Answer]],
        key: Callable[[Request], Hashable],
        max_batch_size: int,
        num_workers: int | None,
    ) -> None:
        self._answer = answer
        self._key = key
        self._max_batch_size = max_batch_size
        self._num_workers = num_workers
        self._waiting: deque[_Waiting[Request, Answer]] = deque()
        self._arrived = asyncio.Condition()
        self._free = 0
        self._workers: list[asyncio.Task[None]] = []
        # a number of threads that one thread sets is also what threads that come later start with: each sets its own
        self.threads = torch.get_num_threads()

    def start(self, device: torch.device) -> None:
        """Begin to answer, with a model on ``device``."""
        num_workers, threads = _workers(device, self._num_workers, self.threads)
        self._pool = ThreadPoolExecutor(num_workers, "batch", initializer=torch.set_num_threads, initargs=(threads,))
        self._workers = [asyncio.create_task(self._run()) for _ in range(num_workers)]

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, which waits for its turn."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        async with self._arrived:
            self._waiting.append(_Waiting(request, answer))
            self._arrived.notify()
        return await answer

    def check(self) -> None:
        """Return where requests are being answered.

        Raises:
            RuntimeError: if a worker has ended.
        """
        if not self._workers or any(worker.done() for worker in self._workers):
            raise RuntimeError("A worker that answers has ended.")

    async def close(self) -> None:
        """Finish what waits, and stop."""
        while self._waiting:
            await asyncio.sleep(0.01)
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.to_thread(self._pool.shutdown)

    async def _run(self) -> None:
        while True:
            async with self._arrived:
                self._free += 1
                await self._arrived.wait_for(lambda: self._waiting)
                batch = self._take_batch()
                self._free -= 1
            await asyncio.get_running_loop().run_in_executor(self._pool, self._answer_batch, batch)

    def _take_batch(self) -> list[_Waiting[Request, Answer]]:
        """The oldest request and those behind it that can run with it, as many as are this worker's share."""
        key = self._key(self._waiting[0].request)
        alike = [waiting for waiting in self._waiting if self._key(waiting.request) == key]
        batch = alike[: min(self._max_batch_size, ceil(len(alike) / self._free))]
        taken = set(map(id, batch))
        self._waiting = deque(waiting for waiting in self._waiting if id(waiting) not in taken)
        return [waiting for waiting in batch if not waiting.answer.done()]

    def _answer_batch(self, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        """Answer every request; where a batch fails, one by one, so that a bad request fails alone."""
        if not batch:
            return
        loop = batch[0].answer.get_loop()
        try:
            answers: Sequence[Answer | Exception] = self._answer([waiting.request for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                for waiting in batch:
                    self._answer_batch([waiting])
                return
            answers = [error]
        for waiting, answer in zip(batch, answers, strict=True):
            loop.call_soon_threadsafe(_resolve, waiting.answer, answer)


@dataclass(frozen=True)
class Pending:
    """A list to rank, and from which catalogue."""

    loaded: LoadedCatalog
    request: RankRequest


class BatchingEngine(Engine):
    """Ranks in batches.

    Args:
        max_batch_size: lists in one batch.
        num_workers: batches at a time; None takes 1 on a GPU, and up to 4 on a CPU.
    """

    name = "transformers"

    def __init__(self, max_batch_size: int, num_workers: int | None) -> None:
        self._batches = Batcher(self.search, self.batch_key, max_batch_size, num_workers)
        self._threads = self._batches.threads

    @abstractmethod
    def batch_key(self, pending: Pending) -> Hashable:
        """Requests that agree in it can run as one batch."""

    @abstractmethod
    def search(self, batch: Sequence[Pending]) -> list[RankedList]:
        """Answer requests with the same key; in a worker's thread."""

    def start_workers(self, device: torch.device) -> None:
        """Begin to answer, with a model on ``device``."""
        self._batches.start(device)

    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        return await self._batches.ask(Pending(loaded, request))

    async def check(self) -> None:
        self._batches.check()

    async def close(self) -> None:
        await self._batches.close()


def _workers(device: torch.device, num_workers: int | None, cores: int) -> tuple[int, int]:
    """Batches at a time, and threads for each."""
    if device.type != "cpu":
        return num_workers or 1, cores
    num_workers = num_workers or min(cores, 4)
    return num_workers, max(1, cores // num_workers)


def _resolve(future: "asyncio.Future[Answer]", answer: Answer | Exception) -> None:
    if future.done():  # the client went away
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
