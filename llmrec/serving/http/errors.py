"""Errors as OpenAI words them: every answer that is not a success has one JSON shape."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    499: "client_closed_request",
    500: "server_error",
    503: "server_error",
}

#: Problems of a body that are told at once.
_MAX_PROBLEMS = 5

#: Characters of a field's name that are repeated: clients choose the names of fields that there are not.
_MAX_NAME = 64

#: Names that pydantic gives to the branches of a union, besides those with brackets.
_BRANCHES = ("str", "int", "float", "bool", "constrained-str", "constrained-int")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's error shape."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is refused; ``message`` is for the client.

    Args:
        status: HTTP status.
        message: what was given, what is allowed, what to do next.
        param: the field at fault.
        code: a word that programs can test.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The entries of these statuses for the OpenAPI document of a route."""
    return {status: {"model": ErrorBody} for status in statuses}


def error_response(error: ApiError) -> JSONResponse:
    """The answer that tells ``error``."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    detail = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": detail}, error.status, headers=error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every refusal of the framework and of the routes in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def by_framework(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}. GET /openapi.json lists the routes."
        if error.status_code == 400:
            message = "The body cannot be read."
        return error_response(ApiError(error.status_code, message, headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_validation_error(error.errors()))


def _validation_error(problems: Sequence[Any]) -> ApiError:
    """One message from pydantic's list; what was sent is not repeated."""
    if problems[0]["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {problems[0]['ctx']['error']}.", code="invalid_json")
    by_field: dict[str, list[str]] = {}
    for problem in problems:
        messages = by_field.setdefault(_field(problem["loc"]), [])
        message = problem["msg"].removeprefix("Value error, ")
        if message not in messages:  # branches of a union fail alike
            messages.append(message)
    told = [f"{field}: {'; '.join(messages)}" for field, messages in list(by_field.items())[:_MAX_PROBLEMS]]
    return ApiError(422, ". ".join(told) + ".", param=next(iter(by_field)), code="invalid_value")


def _field(location: Sequence[Any]) -> str:
    """Path of a field, without where it was (body, query) and without the names of a union's branches."""
    path: list[str] = []
    for step in location[1:]:
        if step in _BRANCHES or "[" in str(step):
            break
        path.append(str(step)[:_MAX_NAME])
    return ".".join(path) or "body"
