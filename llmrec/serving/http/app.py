"""The HTTP application of ``llmrec serve``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from llmrec.serving.checkpoint import Served
from llmrec.serving.engines.engine import EmbeddingEngine, Engine
from llmrec.serving.http.access_log import AccessLog
from llmrec.serving.http.auth import KeyCheck
from llmrec.serving.http.catalog_routes import admin_router, catalog_router
from llmrec.serving.http.chat import chat_router, models_router
from llmrec.serving.http.completions import completions_router
from llmrec.serving.http.errors import ApiError, add_error_handlers, error_responses
from llmrec.serving.http.limits import BodyLimit
from llmrec.serving.http.protocol import Health
from llmrec.serving.http.recommendations import recommendations_router
from llmrec.serving.http.search import refusing_router, search_router
from llmrec.serving.http.service import Service
from llmrec.serving.http.settings import ServerSettings
from llmrec.serving.lrem_checkpoint import ServedLrem

_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def create_app(checkpoint: Served, engine: Engine, settings: ServerSettings) -> FastAPI:
    """The application; the engine starts and stops with it.

    Args:
        checkpoint: to serve.
        engine: over it, not started yet.
        settings: limits and keys; where it listens is the server's business.
    """
    service = Service(checkpoint, engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="llmrec",
        version=version("llmrec"),
        description="A fine-tuned language model that answers with items of its catalogue.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    add_error_handlers(app)
    shared = [catalog_router(service), models_router(service), _metrics_router(service)]
    for router in [*_model_routers(service), *shared]:
        app.include_router(router, dependencies=_security(settings.api_keys))
    app.include_router(admin_router(service), dependencies=_security([settings.admin_key or settings.api_keys]))
    app.include_router(_health_router(engine))
    if not isinstance(checkpoint, ServedLrem):  # the page is made for histories
        app.include_router(_page_router())
    # the last one added is the first to see a request
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(KeyCheck, api_keys=settings.api_keys, admin_key=settings.admin_key)
    app.add_middleware(AccessLog, telemetry=service.telemetry, engine=engine.name)
    return app


def _model_routers(service: Service) -> list[APIRouter]:
    """The routes that ask the model: which there are depends on what it does."""
    checkpoint, engine = service.checkpoint, service.engine
    if isinstance(checkpoint, ServedLrem):
        assert isinstance(engine, EmbeddingEngine)
        return [search_router(service, checkpoint, engine), refusing_router()]
    return [recommendations_router(service), completions_router(service), chat_router(service)]


def _security(keys: Sequence[object]) -> list[Any]:
    """Tells the OpenAPI document that a key is needed; the middleware has refused wrong ones by then."""
    return [Depends(HTTPBearer(auto_error=False, description="A key of the server."))] if any(keys) else []


def _metrics_router(service: Service) -> APIRouter:
    router = APIRouter()
    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/metrics", response_class=Response, responses={**text, **error_responses(400, 401, 413)})
    def metrics() -> Response:
        return Response(service.telemetry.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def _health_router(engine: Engine) -> APIRouter:
    """Needs no key."""
    router = APIRouter()

    @router.get("/health", responses=error_responses(400, 413, 503), summary="Whether the server can answer")
    async def health() -> Health:
        try:
            await engine.check()
        except Exception as error:
            raise ApiError(503, "The engine has stopped; the server must be started again.") from error
        return Health()

    return router


def _page_router() -> APIRouter:
    """The page, which holds no data itself and needs no key."""
    router = APIRouter()
    folder = files("llmrec.serving.http") / "page"
    page = {entry.name: entry for entry in folder.iterdir() if entry.is_file()} if folder.is_dir() else {}

    @router.get("/", include_in_schema=False)
    def index() -> Response:
        return page_file("index.html")

    @router.get("/page/{name}", include_in_schema=False)
    def page_file(name: str) -> Response:
        suffix = name[name.rfind(".") :]
        if name not in page or suffix not in _MEDIA_TYPES:
            raise ApiError(404, "The page has no such file.")
        return Response(page[name].read_bytes(), media_type=_MEDIA_TYPES[suffix], headers=_PAGE_HEADERS)

    return router
