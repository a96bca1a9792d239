"""The server process: uvicorn around the application, JSON lines on stderr."""

import logging
import logging.config
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from llmrec.serving.checkpoint import Served
from llmrec.serving.engines.engine import Engine
from llmrec.serving.http.access_log import LOGGER, JsonLines
from llmrec.serving.http.app import create_app
from llmrec.serving.http.settings import ServerSettings

#: Longer than clients and balancers keep idle connections, so that it is not this end that drops them.
_KEEP_ALIVE_SECONDS = 75


def run_server(checkpoint: Served, engine: Engine, settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Args:
        checkpoint: to serve.
        engine: over it, not started yet.
        settings: where to listen, limits and keys.

    Raises:
        SystemExit: if the port is taken, or the engine can't start.
    """
    _set_up_logging(settings.log_level)
    logger = logging.getLogger(LOGGER)
    if not settings.is_loopback and not settings.api_keys:
        logger.warning(
            "%s can be reached from other machines and there is no API key: whoever connects can ask. Set "
            "LLMREC_API_KEYS, or keep to --host 127.0.0.1.",
            settings.host,
        )
    config = uvicorn.Config(
        create_app(checkpoint, engine, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt), _sigterm_ends_well():
        server.run()
    if not server.started:
        raise SystemExit(3)


@contextmanager
def _sigterm_ends_well() -> Iterator[None]:
    """uvicorn sends the signal again once all is finished: by then it need not kill, and the exit code is 0."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _set_up_logging(level: str) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "loggers": {
                name: {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
                for name in ("llmrec", "uvicorn")
            },
        }
    )
