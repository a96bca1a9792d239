"""Embeddings of a whole catalogue, in parts on disk that an interrupted run goes on from."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from llmrec.atomic import atomic_path, write_json
from llmrec.models.lrem.prompts import LremPrompts
from llmrec.models.lrem.searcher import embed_sequences
from llmrec.schema import DataError

PLAN_FILE = "plan.json"

#: Rows of a part: what a run that is killed has to do again.
ROWS_PER_PART = 1024


class EmbeddingParts:
    """A folder of embeddings, part by part; whoever works in it may be another process each time.

    Args:
        folder: made if it is not there.
        plan: everything that the embeddings depend on, as JSON values.
        num_rows: items.
        rows_per_part: rows of each part but the last.
        overwrite: give up parts of another plan.

    Raises:
        DataError: if the folder holds parts of another plan, and they may not be given up.
    """

    def __init__(
        self,
        folder: str | Path,
        plan: Mapping[str, Any],
        num_rows: int,
        rows_per_part: int = ROWS_PER_PART,
        overwrite: bool = False,
    ) -> None:
        if rows_per_part < 1:
            raise DataError(f"rows_per_part is {rows_per_part}; it must be 1 or more.")
        self.folder = Path(folder)
        self.num_rows = num_rows
        self._rows_per_part = rows_per_part
        self._take_over({**plan, "num_rows": num_rows, "rows_per_part": rows_per_part}, overwrite)

    def missing(self) -> list[int]:
        """Numbers of the parts that are still to be made."""
        num_parts = -(-self.num_rows // self._rows_per_part)
        return [part for part in range(num_parts) if not self._is_done(part)]

    def rows(self, part: int) -> range:
        """Rows of a part."""
        start = part * self._rows_per_part
        return range(start, min(start + self._rows_per_part, self.num_rows))

    def write(self, part: int, vectors: np.ndarray) -> None:
        """Save a part: float32 of shape (rows of the part, hidden size)."""
        if len(vectors) != len(self.rows(part)):
            raise ValueError(f"Part {part} has {len(vectors)} rows; it needs {len(self.rows(part))}.")
        with atomic_path(self._path(part)) as temporary, temporary.open("wb") as opened:
            np.save(opened, np.asarray(vectors, dtype=np.float32))

    def join(self) -> np.ndarray:
        """All of it: float32 of shape (num_rows, hidden size).

        Raises:
            FileNotFoundError: if a part is missing.
        """
        first = np.load(self._path(0), mmap_mode="r")
        vectors = np.empty((self.num_rows, first.shape[1]), dtype=np.float32)
        for start in range(0, self.num_rows, self._rows_per_part):
            part = start // self._rows_per_part
            vectors[start : start + self._rows_per_part] = np.load(self._path(part), mmap_mode="r")
        return vectors

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:08}.npy"

    def _is_done(self, part: int) -> bool:
        try:
            return len(np.load(self._path(part), mmap_mode="r")) == len(self.rows(part))
        except (FileNotFoundError, ValueError, EOFError):  # a machine that lost power may leave an empty file
            return False

    def _take_over(self, plan: dict[str, Any], overwrite: bool) -> None:
        """Go on with parts of the same plan; write down whose parts these are before the first one."""
        path, now = self.folder / PLAN_FILE, json.loads(json.dumps(plan))
        earlier = json.loads(path.read_text()) if path.is_file() else {}
        changed = [name for name in sorted({*earlier, *now}) if earlier.get(name) != now.get(name)]
        if not changed:
            return
        if earlier and not overwrite:
            told = ", ".join(f"{name} {earlier.get(name)!r} (now {now.get(name)!r})" for name in changed)
            raise DataError(
                f"{self.folder} holds embeddings of another run, made with {told}. Give the same again to go on with "
                "it, or name another folder."
            )
        for left in self.folder.glob("part-*.npy"):
            left.unlink()
        write_json(path, plan)


def embed_catalog(
    model: PreTrainedModel,
    prompts: LremPrompts,
    lines: Sequence[str],
    folder: str | Path,
    batch_size: int,
    rows_per_part: int = ROWS_PER_PART,
    progress: bool = True,
    overwrite: bool = False,
) -> np.ndarray:
    """Embed a catalogue into ``folder``; the same call again goes on after the parts that are there.

    Args:
        model: causal, in evaluation mode.
        prompts: of the model.
        lines: of the items (``LremPrompts.lines``).
        folder: for the parts; stays, and may be removed once the result is safe.
        batch_size: items that the model reads at a time.
        rows_per_part: items between two saves.
        progress: whether to show a bar.
        overwrite: give up embeddings of other weights, prompts or items that are in the folder.

    Returns:
        float32 of shape (num_items, hidden size), rows of length 1.

    Raises:
        DataError: if the folder holds embeddings of others and ``overwrite`` is off, or there is nothing to read of an
            item.
    """
    check_lines(lines)
    plan = {
        "weights": weights_fingerprint(model),
        "prompts": prompts.options,
        # the tokenizer shows in it, and its chat template
        "example": prompts.item(lines[0]) if lines else [],
        "lines": lines_fingerprint(lines),
    }
    parts = EmbeddingParts(folder, plan, len(lines), rows_per_part, overwrite)
    with part_bar(parts, progress) as bar:
        embed_parts(model, prompts, lines, parts, batch_size, bar.update)
    return parts.join() if lines else np.empty((0, model.config.get_text_config().hidden_size), dtype=np.float32)


def embed_parts(
    model: PreTrainedModel,
    prompts: LremPrompts,
    lines: Sequence[str],
    parts: EmbeddingParts,
    batch_size: int,
    done: Callable[[int], object],
) -> None:
    """Make the parts that are missing.

    Args:
        model: causal, in evaluation mode.
        prompts: of the model.
        lines: of the items.
        parts: takes them.
        batch_size: items that the model reads at a time.
        done: told of items as they are done.
    """
    for part in parts.missing():
        rows = parts.rows(part)
        parts.write(part, embed_sequences(model, [prompts.item(lines[row]) for row in rows], batch_size))
        done(len(rows))


def part_bar(parts: EmbeddingParts, progress: bool = True) -> "tqdm[Any]":
    """A bar that begins where an earlier run ended."""
    left = sum(len(parts.rows(part)) for part in parts.missing())
    initial = parts.num_rows - left
    return tqdm(total=parts.num_rows, initial=initial, desc="Embedding", unit=" items", disable=not progress)


def check_lines(lines: Sequence[str], item_ids: Sequence[str] | None = None) -> None:
    """Refuse a catalogue in which there is nothing to read of an item.

    Raises:
        DataError: naming the first.
    """
    for row, line in enumerate(lines):
        if not line.strip():
            named = f"Row {row}" if item_ids is None else f"Item {item_ids[row]!r}"
            raise DataError(f"{named} has no title, brand or category to embed. Give it a title, or leave it out.")


def lines_fingerprint(lines: Sequence[str]) -> str:
    """16 hex digits over the lines of a catalogue."""
    return hashlib.sha256(json.dumps(list(lines)).encode()).hexdigest()[:16]


@torch.no_grad()
def weights_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits over the names, types, shapes and values of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
