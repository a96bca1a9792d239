"""JSON lines, gzip or not, with errors that name the line."""

import ast
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from llmrec.dataset.readers.files import damage_named, decompressed, existing_file
from llmrec.schema import DataError

_LINES_PER_UPDATE = 2000


def read_json_lines(
    path: str | Path, required: Sequence[str] = (), parse: Callable[[str], Any] = json.loads
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of every line that is not empty, with a progress bar.

    Args:
        path: a file, gzip or not.
        required: fields that every object must have, with a value.
        parse: of one line; it raises ValueError or SyntaxError where it can't.

    Raises:
        DataError: if the file is missing or cut short, a line can't be parsed, or a field is missing.
    """
    path = existing_file(path)
    with path.open("rb") as raw, damage_named(path), _bar(path) as bar:
        number = 0
        for number, line in enumerate(decompressed(raw), start=1):
            if number % _LINES_PER_UPDATE == 0:
                bar.update(raw.tell() - bar.n)
            if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                yield number, _parsed(path, number, text, required, parse)
        bar.update(raw.tell() - bar.n)


def json_or_literal(line: str) -> Any:
    """One line of a file that holds Python literals instead, as older releases do; nothing in them is ever run."""
    try:
        return json.loads(line)
    except ValueError:
        return ast.literal_eval(line)


def _bar(path: Path) -> Any:
    return tqdm(
        total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, leave=False, delay=1, mininterval=1
    )


def _parsed(path: Path, number: int, line: str, required: Sequence[str], parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        row = parse(line)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{path}: line {number} can't be parsed ({error}): {line[:80]!r}. Each line must hold one object."
        ) from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} holds a {type(row).__name__}; each line must hold one object.")
    missing = [field for field in required if row.get(field) is None]
    if missing:
        raise DataError(f"{path}: line {number} has no {', '.join(missing)}; it has {', '.join(sorted(row))}.")
    return row
