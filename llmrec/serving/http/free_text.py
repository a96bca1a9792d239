"""Free text, whole or as it is written: what ``"constrained": false`` asks for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llmrec.serving.engines.engine import Engine, TextChunk, TextRequest
from llmrec.serving.http.errors import ApiError
from llmrec.serving.http.openai_protocol import GenerationFields
from llmrec.serving.http.service import Service, until_disconnect
from llmrec.serving.http.telemetry import RequestRecord
from llmrec.serving.http.unsupported import token_limit

Piece = tuple[int, TextChunk]


@dataclass
class WrittenText:
    """A whole text."""

    text: str = ""
    num_tokens: int = 0
    finish_reason: Literal["stop", "length"] = "length"

    def add(self, chunk: TextChunk) -> None:
        """Append a piece."""
        self.text += chunk.text
        self.num_tokens += chunk.num_tokens
        self.finish_reason = chunk.finish_reason or self.finish_reason


class TextsUnderWay:
    """Several texts, written at the same time: pieces of all of them, each with the place of its text.

    Args:
        service: has the engine, and the queue that they take places in until ``close``.
        requests: what to write.

    Raises:
        ApiError: 429, where the queue is full.
    """

    def __init__(self, service: Service, requests: Sequence[TextRequest]) -> None:
        service.queue.take(len(requests))
        self._service = service
        self._requests = requests
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(self._write(service.engine, place, request)) for place, request in enumerate(requests)
        ]
        self._is_closed = False
        self.num_tokens = 0

    async def next(self) -> Piece:
        """The next piece.

        Raises:
            ApiError: 422, if the engine refuses a request.
        """
        piece = await self._pieces.get()
        if isinstance(piece, ValueError):
            raise ApiError(422, str(piece)) from piece
        if isinstance(piece, Exception):
            raise piece
        self.num_tokens += piece[1].num_tokens
        return piece

    async def pieces(self, first: Piece | None = None) -> AsyncIterator[Piece]:
        """All that is left, after ``first``, which was taken before."""
        finished = 0
        piece = await self.next() if first is None else first
        while True:
            yield piece
            finished += piece[1].finish_reason is not None
            if finished == len(self._requests):
                return
            piece = await self.next()

    def close(self) -> None:
        """Stop what is still being written, and give the places back."""
        if self._is_closed:
            return
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        self._service.queue.leave(len(self._requests))
        self._service.telemetry.texts.inc(len(self._requests))
        prompts = {tuple(request.prompt): len(request.prompt) for request in self._requests}
        self._service.telemetry.count_tokens(sum(prompts.values()), self.num_tokens)

    async def _write(self, engine: Engine, place: int, request: TextRequest) -> None:
        try:
            async with aclosing(engine.generate(request)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    self._pieces.put_nowait((place, chunk))
        except Exception as error:  # raised where the pieces are read
            self._pieces.put_nowait(error)


def text_requests(
    service: Service, body: GenerationFields, prompts: Sequence[Sequence[int]], default_tokens: int | None
) -> list[TextRequest]:
    """``n`` texts for each prompt, those of the first prompt first.

    Args:
        service: has the limits.
        body: of the HTTP request.
        prompts: token ids of each.
        default_tokens: longest text where the request says nothing; None is as long as may be.

    Raises:
        ApiError: 422.
    """
    limit = service.settings.max_text_tokens
    asked = token_limit(body) or default_tokens
    if asked is not None and asked > limit:
        raise ApiError(422, f"max_tokens is {asked}; the limit is {limit}.", "max_tokens", "limit_exceeded")
    count = body.n or 1
    most = service.settings.max_users_per_request
    if count * len(prompts) > most:
        message = f"{len(prompts)} prompts with n = {count} are {count * len(prompts)} texts; the limit is {most}."
        raise ApiError(422, message, "n", "limit_exceeded")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [
        TextRequest(
            prompt=prompt,
            max_tokens=asked or min(limit, _room(service, prompt)),
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            # the texts of one prompt have to differ
            seed=None if body.seed is None else (body.seed + place) % 2**63,
            stop=stop,
        )
        for prompt in prompts
        for place in range(count)
    ]


async def write_texts(service: Service, http: Request, requests: Sequence[TextRequest]) -> list[WrittenText]:
    """Write all texts to their ends.

    Raises:
        ApiError: 422 where the engine refuses, 429 where the queue is full, 499 where the client has gone.
    """
    _record(http, requests)
    texts = [WrittenText() for _ in requests]
    under_way = TextsUnderWay(service, requests)

    async def collect() -> None:
        async for place, chunk in under_way.pieces():
            texts[place].add(chunk)

    try:
        await until_disconnect(http, collect())
    finally:
        under_way.close()
    return texts


async def stream_texts(
    service: Service,
    http: Request,
    requests: Sequence[TextRequest],
    events: Callable[[AsyncIterator[Piece]], AsyncIterator[dict[str, Any]]],
) -> StreamingResponse:
    """Answer with server-sent events while texts are written; they stop where the client goes away.

    Args:
        service: has the engine.
        http: the request.
        requests: what to write.
        events: from pieces to the events of the route.

    Raises:
        ApiError: as for ``write_texts``, before anything is sent.
    """
    _record(http, requests)
    under_way = TextsUnderWay(service, requests)
    try:
        first = await until_disconnect(http, under_way.next())
    except BaseException:
        under_way.close()
        raise
    return _EventStream(events(under_way.pieces(first)), under_way)


class _EventStream(StreamingResponse):
    """Server-sent events; closes the texts however the response ends."""

    def __init__(self, events: AsyncIterator[dict[str, Any]], under_way: TextsUnderWay) -> None:
        super().__init__(_lines(events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._under_way = under_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._under_way.close()


async def _lines(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield f"data: {json.dumps(event)}\n\n"
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status is sent already: the client learns it from the stream
        message = error.message if isinstance(error, ApiError) else "The text could not be written to its end."
        yield f"data: {json.dumps({'error': {'message': message, 'type': 'server_error', 'code': None}})}\n\n"


def _record(http: Request, requests: Sequence[TextRequest]) -> None:
    record: RequestRecord = http.state.record
    record.lists = len(requests)


def _room(service: Service, prompt: Sequence[int]) -> int:
    """Tokens that fit behind a prompt."""
    longest = service.checkpoint.max_prompt_tokens
    if longest is None:
        return service.settings.max_text_tokens
    return max(1, longest + service.checkpoint.catalog.num_codebooks - len(prompt))
