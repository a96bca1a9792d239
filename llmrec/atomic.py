"""Write to a temporary name, then rename, and one process at a time: no stage leaves or meets anything half-written."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_LOCK_FILE = ".lock"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (a file or a folder to be made) that takes its place on success.

    On an error the temporary is removed and whatever ``path`` held stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def one_at_a_time(folder: str | Path) -> Iterator[None]:
    """Work in ``folder`` (made if missing) while no other process does; wait for the one that is there."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is at work in %s: waiting for it.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
