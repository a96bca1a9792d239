"""What every route works with, and the one way from a request for lists to checked lists."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request

from llmrec.serving.checkpoint import Served
from llmrec.serving.engines.engine import Engine, RankedList, RankRequest
from llmrec.serving.http.catalogs import Catalogs, ServedCatalog
from llmrec.serving.http.errors import ApiError
from llmrec.serving.http.limits import Queue
from llmrec.serving.http.settings import ServerSettings
from llmrec.serving.http.telemetry import RequestRecord, Telemetry

T = TypeVar("T")


class Service:
    """A checkpoint, an engine and the settings they are served with.

    Args:
        checkpoint: model, tokenizer and catalogue.
        engine: not started yet.
        settings: limits and keys.
    """

    def __init__(self, checkpoint: Served, engine: Engine, settings: ServerSettings) -> None:
        self.checkpoint = checkpoint
        self.engine = engine
        self.settings = settings
        self.telemetry = Telemetry()
        self.queue = Queue(settings.max_queue, self.telemetry.queue)
        self.catalogs = Catalogs(checkpoint, engine, self.telemetry)
        # tokenizers are not made for several threads, and the event loop has to go on
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.settings.model_name or self.checkpoint.name

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start engine and catalogue; finish what is in flight at the end."""
        await self.engine.start()
        try:
            await self.catalogs.start()
            yield
        finally:
            await self.engine.close()
            self._preparing.shutdown()

    async def prepare(self, work: Callable[[], T]) -> T:
        """Run ``work``, which tokenizes, in the one thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, work)

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            ApiError: 404.
        """
        if name is not None and name != self.model_name:
            message = f"The model {name!r} is not served here; this server has {self.model_name!r}."
            raise ApiError(404, message, "model", "model_not_found")

    def check_language(self) -> None:
        """Refuse a prompt in words where the model has no semantic IDs to answer it with.

        Raises:
            ApiError: 422.
        """
        if self.checkpoint.reads_items:
            message = "This model reads item ids, not prompts: ask /v1/recommendations with a history."
            raise ApiError(422, message, "model", "no_prompts")
        if not self.checkpoint.catalog.num_codebooks:
            message = "This model's items have no tokens to answer with, but titles: ask /v1/recommendations."
            raise ApiError(422, message, "model", "no_prompts")

    def list_size(self, k: int, num_beams: int | None, name: str) -> tuple[int, int]:
        """(k, num_beams) within the limits.

        Args:
            k: list length asked for.
            num_beams: search width asked for; None for the checkpoint's own, or k where k is more.
            name: the field that k came from.

        Raises:
            ApiError: 422.
        """
        settings = self.settings
        if self.checkpoint.reads_items and num_beams is not None:
            raise ApiError(422, "This model scores all items at once: it has no num_beams.", "num_beams", "no_beams")
        # a list is never longer than the search is wide
        longest = settings.max_k if self.checkpoint.reads_items else min(settings.max_k, settings.max_num_beams)
        if k > longest:
            raise ApiError(422, f"{name} is {k}; the limit is {longest}.", name, "limit_exceeded")
        if num_beams is None:
            return k, min(max(self.checkpoint.num_beams, k), settings.max_num_beams)
        if num_beams > settings.max_num_beams:
            message = f"num_beams is {num_beams}; the limit is {settings.max_num_beams}."
            raise ApiError(422, message, "num_beams", "limit_exceeded")
        if num_beams < k:
            message = f"num_beams is {num_beams} and {name} is {k}: a list is at most as long as the search is wide."
            raise ApiError(422, message, "num_beams")
        return k, num_beams

    def check_prompt(self, prompt: Sequence[int], name: str) -> None:
        """Refuse a prompt that is empty or too long.

        Raises:
            ApiError: 422.
        """
        limits = (self.settings.max_prompt_tokens, self.checkpoint.max_prompt_tokens)
        limit = min(limit for limit in limits if limit is not None)
        if not prompt and not self.checkpoint.reads_items:
            raise ApiError(422, f"{name} is empty: it needs a token or more.", name)
        if len(prompt) > limit:
            message = f"{name} has {len(prompt)} tokens; the limit is {limit}. Shorten it."
            raise ApiError(422, message, name, "limit_exceeded")

    async def rank(self, http: Request, served: ServedCatalog, requests: Sequence[RankRequest]) -> list[RankedList]:
        """Rank all lists of one HTTP request, at the same time.

        Raises:
            ApiError: 429 where the queue is full, 422 where the engine refuses, 499 where the client has gone.
        """
        record: RequestRecord = http.state.record
        record.lists, record.k, record.beams = len(requests), requests[0].k, requests[0].num_beams
        with self.queue.places(len(requests)):
            try:
                work = all_of(self.engine.rank(served.loaded, request) for request in requests)
                ranked = await until_disconnect(http, work)
            except ValueError as error:
                raise ApiError(422, str(error)) from error
        self.telemetry.lists.inc(len(ranked))
        checked = [self._checked(answer, len(served.catalog)) for answer in ranked]
        written = sum(len(answer.items) for answer in checked) * served.catalog.num_codebooks
        written += sum(len(answer.thought or ()) for answer in checked)
        self.telemetry.count_tokens(sum(len(request.prompt) for request in requests), written)
        return checked

    def _checked(self, ranked: RankedList, num_items: int) -> RankedList:
        """The list without items that there are not and repeated ones, which are counted."""
        first = {item: place for place, item in reversed(list(enumerate(ranked.items))) if 0 <= item < num_items}
        keep = sorted(first.values())
        if len(keep) == len(ranked.items):
            return ranked
        self.telemetry.invalid_beams.inc(len(ranked.items) - len(keep))
        return replace(
            ranked,
            items=[ranked.items[place] for place in keep],
            scores=[ranked.scores[place] for place in keep],
            code_log_probs=[ranked.code_log_probs[place] for place in keep],
        )


async def until_disconnect(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled where the client goes away before.

    Raises:
        ApiError: 499, which nobody reads, where the client has gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "The client has gone.")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order; the first error cancels the rest and is raised itself."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
