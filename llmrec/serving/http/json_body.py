"""Bodies are read by pydantic's JSON parser, which knows a depth limit and refuses strings that are no Unicode."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json


class JsonRequest(Request):
    """A request whose body is parsed strictly."""

    async def json(self) -> Any:
        """The body.

        Raises:
            JSONDecodeError: if it is not JSON, nested too deeply, or has a string with half a surrogate pair: such a
                string has no UTF-8, so neither a tokenizer nor an answer could hold it.
        """
        try:
            return from_json(await self.body())
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class JsonRoute(APIRoute):
    """A route that reads its body with ``JsonRequest``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, around the stricter request."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_strictly
