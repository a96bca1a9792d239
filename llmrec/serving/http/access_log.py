"""One JSON line for each request and event, without anything that a user sent."""

import json
import logging
import time
import traceback
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.serving.http.errors import ApiError, error_response
from llmrec.serving.http.telemetry import RequestRecord, Telemetry

LOGGER = "llmrec.serving"

#: Files that a failure's line names: the innermost ones.
_MAX_FRAMES = 12


class JsonLines(logging.Formatter):
    """Log records as JSON objects. Of an exception, only its type and where it came from: its text may hold data."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= _failure(record.exc_info[1])
        return json.dumps(line)


class AccessLog:
    """Times and counts every request, gives it an id, logs it, and answers 500 for what nothing else caught.

    Args:
        app: the application.
        telemetry: is told of each request.
        engine: its name, for the log.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, engine: str) -> None:
        self.app = app
        self.telemetry = telemetry
        self.engine = engine
        self.logger = logging.getLogger(LOGGER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord(uuid.uuid4().hex)
        scope.setdefault("state", {})["record"] = record
        start, status = time.perf_counter(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, note)
        except Exception as error:
            self.logger.error("failed", extra={"fields": {"request_id": record.request_id} | _failure(error)})
            if not status:
                message = f"The server failed; its log has more under the request id {record.request_id}."
                await error_response(ApiError(500, message))(scope, receive, note)
        finally:
            self._finish(scope, record, status, time.perf_counter() - start)

    def _finish(self, scope: Scope, record: RequestRecord, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")  # the template: a path may hold an item id
        self.telemetry.seconds.labels(route, str(status)).observe(seconds)
        fields = {
            "request_id": record.request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
            "lists": record.lists,
            "k": record.k,
            "beams": record.beams,
            "engine": self.engine,
        }
        self.logger.info("request", extra={"fields": fields})


def _failure(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "where": where}
