"""Embeddings of a catalogue by an LREM checkpoint: in parts that a second call goes on from, as one file in the end."""

import json
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llmrec.atomic import atomic_path
from llmrec.models.lrem.catalog_embeddings import (
    ROWS_PER_PART,
    EmbeddingParts,
    check_lines,
    embed_parts,
    lines_fingerprint,
    part_bar,
)
from llmrec.schema import ITEMS, DataError
from llmrec.serving.batch.block import checkpoint_fingerprint
from llmrec.serving.batch.parts import job_difference, lock_folder
from llmrec.serving.checkpoint import DTYPES, ServedLrem, open_served
from llmrec.vector_index import IndexKind, VectorIndex

_JOB_KEY = "llmrec_embed"
_LOCK_FILE = "lock"


@dataclass(frozen=True)
class EmbedOptions:
    """How a catalogue is embedded.

    Args:
        engine: ``transformers`` in this process, or ``ray``: many processes.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``auto`` keeps the precision that the checkpoint was saved in.
        index: write an index of the embeddings beside them, exact or approximate; None writes none.
        batch_size: items that the model reads at a time.
        rows_per_part: items between two saves; with ray, what a worker makes at a time.
        num_workers: copies of the model that ray runs.
        overwrite: replace an output, or give up the parts of one, that was made with something else.

    Raises:
        DataError: if an option is out of range.
        ImportError: if the engine is an extra that is not installed.
    """

    engine: Literal["transformers", "ray"] = "transformers"
    device: str = "auto"
    dtype: str = "auto"
    index: IndexKind | None = None
    batch_size: int = 32
    rows_per_part: int = ROWS_PER_PART
    num_workers: int = 2
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "rows_per_part", "num_workers"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        allowed = {"engine": ("transformers", "ray"), "dtype": DTYPES, "index": (None, *get_args(IndexKind))}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                told = ", ".join(str(value) for value in values)
                raise DataError(f"{name} is {getattr(self, name)!r}; allowed are {told}.")
        if self.engine == "ray" and find_spec("ray") is None:
            raise ImportError("engine 'ray' needs ray: pip install \"llmrec[ray]\".")


@dataclass(frozen=True)
class EmbedSummary:
    """What a call did.

    Attributes:
        output: the file.
        index: the index beside it, if any.
        num_items: rows.
        num_resumed: of these, the ones that were there before this call.
        seconds: of embedding, without loading the model in this process.
    """

    output: Path
    index: Path | None
    num_items: int
    num_resumed: int
    seconds: float

    def __str__(self) -> str:
        told = f"{self.output}: {self.num_items:,} items"
        if self.num_resumed == self.num_items:
            told += ", done before"
        else:
            told += f", {(self.num_items - self.num_resumed) / self.seconds:,.1f} a second"
            told += f" ({self.num_resumed:,} done before)" if self.num_resumed else ""
        return told + (f"; index {self.index}" if self.index else "")


def embed_file(checkpoint_name: str, items: Path | None, output: Path, options: EmbedOptions) -> EmbedSummary:
    """Write the embeddings of a table of items, row by row.

    Finished parts are kept in ``<output>.parts``. The same call again goes on where an earlier one ended, and does
    nothing where the output is complete.

    Args:
        checkpoint_name: folder or Hub name of an LREM checkpoint.
        items: parquet file with the columns of ``schema.ITEMS``; None takes the checkpoint's own catalogue.
        output: safetensors file with one tensor, ``embeddings``: float32 of shape (num_items, hidden size).
        options: how.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        DataError: if the checkpoint is another method's, the items will not do, or the output is of another job.
    """
    served = open_lrem(checkpoint_name)
    lines = read_lines(served, items)
    job = {
        "checkpoint": checkpoint_fingerprint(served.folder),
        "items": lines_fingerprint(lines),
        "dtype": options.dtype,
    }
    index = None if options.index is None else output.with_suffix(".faiss")
    if index == output:
        raise DataError(f"{output} is where the index goes: give the embeddings another ending, as .safetensors.")
    if output.is_dir():
        raise DataError(f"{output} is a folder; the output is one safetensors file. Name a file in it.")
    folder = output.with_name(f"{output.name}.parts")
    resumed, seconds = len(lines), 0.0
    if not _is_finished(output, job, options.overwrite):
        resumed, seconds = _embed(checkpoint_name, served, items, lines, output, folder, job, options)
    shutil.rmtree(folder, ignore_errors=True)
    if index is not None:
        with safe_open(output, "np") as opened:
            VectorIndex(opened.get_tensor("embeddings"), options.index or "exact").save(index)
    return EmbedSummary(output, index, len(lines), resumed, seconds)


def open_lrem(name_or_path: str) -> ServedLrem:
    """Open an LREM checkpoint.

    Raises:
        DataError: if it is another method's.
        FileNotFoundError, ValueError: as ``open_served``.
    """
    served = open_served(name_or_path)
    if not isinstance(served, ServedLrem):
        raise DataError(f"{served.folder} is a checkpoint of {served.method}; only LREM's embed items.")
    return served


def read_lines(served: ServedLrem, items: Path | None) -> list[str]:
    """What the model reads of each item of a parquet file, or of the checkpoint's own catalogue.

    Raises:
        DataError: if the file is not there, lacks a column, or there is nothing to read of an item.
    """
    if items is None:
        return served.lines(served.catalog)
    if not items.is_file():
        raise DataError(f"{items} is not a file. Name a parquet file with the columns {', '.join(ITEMS.names)}.")
    try:
        table = pq.read_table(items, columns=ITEMS.names).cast(ITEMS)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{items} is no table of items: {error}. It needs the columns {', '.join(ITEMS.names)}, none with missing "
            "values; items.parquet of a prepared dataset has them."
        ) from error
    if not table.num_rows:
        raise DataError(f"{items} has no rows: there is nothing to embed.")
    lines = served.prompts.lines(table)
    check_lines(lines, table["item_id"].to_pylist())
    return lines


def _embed(
    checkpoint_name: str,
    served: ServedLrem,
    items: Path | None,
    lines: list[str],
    output: Path,
    folder: Path,
    job: dict[str, Any],
    options: EmbedOptions,
) -> tuple[int, float]:
    """Make the missing parts and the file; returns the items that were there before, and the seconds it took."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_FILE).open("a") as lock:
        lock_folder(lock.fileno(), folder)
        parts = EmbeddingParts(folder, job, len(lines), options.rows_per_part, options.overwrite)
        missing = parts.missing()
        resumed = len(lines) - sum(len(parts.rows(part)) for part in missing)
        start = time.perf_counter()
        with part_bar(parts) as bar:
            if missing and options.engine == "ray":
                from llmrec.serving.batch.ray_embed import embed_parts_on_ray  # noqa: PLC0415 -- ray is an extra

                embed_parts_on_ray(checkpoint_name, items, job, parts, options, bar.update)
            elif missing:
                model = served.load_model(options.device, options.dtype)
                start = time.perf_counter()
                embed_parts(model, served.prompts, lines, parts, options.batch_size, bar.update)
        seconds = time.perf_counter() - start
        _write(output, parts.join(), job)
    return resumed, seconds


def _write(output: Path, vectors: np.ndarray, job: dict[str, Any]) -> None:
    with atomic_path(output) as temporary:
        save_file({"embeddings": vectors}, temporary, metadata={_JOB_KEY: json.dumps(job, sort_keys=True)})


def _is_finished(output: Path, job: dict[str, Any], overwrite: bool) -> bool:
    """Whether the file is there already, made by the same job.

    Raises:
        DataError: if another file is there and may not be replaced.
    """
    if overwrite or not output.exists():
        return False
    try:
        with safe_open(output, "np") as opened:
            told = (opened.metadata() or {}).get(_JOB_KEY)
    except SafetensorError:
        told = None
    difference = job_difference(None if told is None else json.loads(told), job, "embed")
    if difference:
        raise DataError(
            f"{output} is there already, {difference}. Name another output, or give --overwrite to replace it."
        )
    return True
