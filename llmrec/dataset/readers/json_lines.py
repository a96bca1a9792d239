"""JSON lines, gzip or not, with errors that name the line."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from llmrec.schema import DataError


def read_json_lines(
    path: str | Path, required: Sequence[str] = (), parse: Callable[[str], Any] = json.loads
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of every line that is not empty.

    Args:
        path: a file, compressed if its name ends in .gz.
        required: fields that every object must have.
        parse: of one line; it raises ValueError or SyntaxError where it can't.

    Raises:
        DataError: if the file is missing or cut short, a line can't be parsed, or a field is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not there: name the folder or file that holds it.")
    number = 0
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(tqdm(lines, desc=path.name, unit=" lines", mininterval=1), start=1):
                if line.strip():
                    yield number, _parsed(path, number, line, required, parse)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path} is damaged or cut short after line {number} ({error}): fetch it again and compare its size."
            ) from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no UTF-8 text after line {number} ({error.reason}).") from None


def _parsed(path: Path, number: int, line: str, required: Sequence[str], parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        row = parse(line)
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{path}: line {number} can't be parsed ({error}): {line[:80]!r}") from None
    missing = [field for field in required if not isinstance(row, dict) or row.get(field) is None]
    if missing:
        has = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{path}: line {number} has no {', '.join(missing)}; it has {has}.")
    return row
