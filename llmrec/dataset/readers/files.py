"""Files as they are distributed: gzip or not, whole or cut short. Errors name the file."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llmrec.schema import DataError

_GZIP_MAGIC = b"\x1f\x8b"


def existing_file(path: str | Path) -> Path:
    """``path``, which must be a file.

    Raises:
        DataError: if it is not.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise DataError(f"{path} {what}: name the file to read.")
    return path


def stem(path: str | Path) -> str:
    """File name without the endings that say how it is stored: ``Gift_Cards_5.json.gz`` -> ``Gift_Cards_5``."""
    return Path(path).name.split(".")[0]


def decompressed(raw: IO[bytes]) -> IO[bytes]:
    """The content of an open file, through gzip if its first bytes say so, whatever its name is."""
    magic = raw.read(2)
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if magic == _GZIP_MAGIC else raw  # type: ignore[return-value]


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises while it is read into a ``DataError`` that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is damaged or cut short ({error}). Fetch it again and compare its size with the source's."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error.reason}). Save it as UTF-8, then try again.") from None
