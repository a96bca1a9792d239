"""What a request may cost: the size of its body, and the lists that are under way at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.serving.http.errors import ApiError, error_response


class BodyLimit:
    """Reads the body before the application does, and answers 413 where it is too large, announced or not.

    Args:
        app: what gets the bodies that fit.
        max_bytes: largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        body = None if int(announced) > self.max_bytes else await self._read(receive)
        if body is None:
            message = f"The body is larger than {self.max_bytes} bytes, the limit. Send fewer users at a time."
            await error_response(ApiError(413, message, code="request_too_large"))(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None if it is too large."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


class Queue:
    """Places for lists and texts that wait or run.

    Args:
        size: places.
        gauge: shows how many are taken.
    """

    def __init__(self, size: int, gauge: Gauge) -> None:
        self.size = size
        self.taken = 0
        self._gauge = gauge

    def take(self, count: int) -> None:
        """Take places; ``leave`` gives them back.

        Raises:
            ApiError: 429, if there are not as many free.
        """
        if count > self.size:
            raise ApiError(422, f"The request asks for {count} lists at once; the limit is {self.size}.")
        if self.taken + count > self.size:
            message = f"{self.taken} lists are waiting or running; the limit is {self.size}. Try again in a moment."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})
        self._add(count)

    def leave(self, count: int) -> None:
        """Give places back."""
        self._add(-count)

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """``take`` for the duration of a block."""
        self.take(count)
        try:
            yield
        finally:
            self.leave(count)

    def _add(self, count: int) -> None:
        self.taken += count
        self._gauge.set(self.taken)
