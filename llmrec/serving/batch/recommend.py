"""Recommendations for a file of histories: checked as a whole first, in blocks that a second call goes on from."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm.auto import tqdm

from llmrec.schema import DataError
from llmrec.serving.batch.block import BlockRecommender, checkpoint_fingerprint
from llmrec.serving.batch.input import Histories, HistoryReader, InputFacts, check_rows, open_histories
from llmrec.serving.batch.options import RecommendOptions
from llmrec.serving.batch.parts import Output
from llmrec.serving.checkpoint import Recommending, ServedSetRec, open_recommending

__all__ = ["RecommendOptions", "RecommendSummary", "recommend_file"]

logger = logging.getLogger(__name__)

#: Bytes that an item of a list takes on the disk at the very least.
_MIN_ITEM_BYTES = 6


@dataclass(frozen=True)
class RecommendSummary:
    """What a call did.

    Attributes:
        output: the file.
        num_users: its rows.
        num_resumed: of these, the ones that were there before this call.
        num_unknown: item ids of the input that were skipped.
        num_short: lists with fewer than k items: rules, or the width of the search, left no more.
        seconds: of ranking, without loading the model.
    """

    output: Path
    num_users: int
    num_resumed: int
    num_unknown: int
    num_short: int
    seconds: float

    @property
    def users_per_second(self) -> float:
        return (self.num_users - self.num_resumed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        if self.num_users and self.num_resumed == self.num_users:
            told = f"{self.output}: {self.num_users:,} users, done before"
        else:
            told = f"{self.output}: {self.num_users:,} users, {self.users_per_second:,.1f} a second"
            told += f" ({self.num_resumed:,} done before)" if self.num_resumed else ""
        told += f"; {self.num_unknown:,} unknown item ids skipped" if self.num_unknown else ""
        return told + (f"; {self.num_short:,} lists are short" if self.num_short else "")


def recommend_file(checkpoint_name: str, histories: Path, output: Path, options: RecommendOptions) -> RecommendSummary:
    """Write a list of recommendations for every history of ``histories``, in the same order.

    Finished blocks are kept in ``<output>.parts``. The same call again goes on where an earlier one ended, and does
    nothing where the output is complete.

    Args:
        checkpoint_name: folder or Hub name.
        histories: parquet file, or folder of parquet files, with a column ``history`` of item ids, oldest first, and
            maybe ``user_id``, ``seen_item_ids`` (ruled out instead of the history) and ``exclude``.
        output: parquet file of ``RECOMMENDATIONS``.
        options: how to rank.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        DataError: if an option, the input or the output will not do, or the output is of another job.
        ImportError: if the engine is an extra that is not installed.
    """
    checkpoint = open_recommending(checkpoint_name)
    options = options.resolved(checkpoint)
    _check_output(output, histories)
    source = open_histories(histories, options.exclude_column)
    facts = check_rows(source, checkpoint.catalog, options.unknown_items == "skip")
    _check_prompts(checkpoint, facts)
    job = {
        "checkpoint": checkpoint_fingerprint(checkpoint.folder),
        "catalog": checkpoint.catalog.fingerprint,
        "options": options.identity,
        "histories": source.identity,
    }
    target = Output(output, job, source.num_rows, options.block_size)
    if target.is_finished(options.overwrite):
        return _summary(target, options, source.num_rows, source.num_rows, facts, 0.0)
    _check_space(output, source.num_rows * options.k * _MIN_ITEM_BYTES)
    with target.working(options.overwrite) as missing:
        resumed = source.num_rows - sum(target.size(block) for block in missing)
        if resumed:
            logger.info("Going on after %d users that an earlier call finished.", resumed)
        seconds = _run(checkpoint_name, checkpoint, source, target, missing, options) if missing else 0.0
        target.join()
    return _summary(target, options, source.num_rows, resumed, facts, seconds)


def _run(
    checkpoint_name: str,
    checkpoint: Recommending,
    source: Histories,
    target: Output,
    missing: Sequence[int],
    options: RecommendOptions,
) -> float:
    """Write the missing blocks and return the seconds that it took."""
    if options.engine == "ray":
        from llmrec.serving.batch.ray_job import run_blocks  # noqa: PLC0415 -- ray is an extra

        with _bar(target, missing) as bar:
            return run_blocks(checkpoint_name, source, target, missing, options, bar.update)
    recommend = BlockRecommender(checkpoint, options)
    reader = HistoryReader(source)
    start = time.perf_counter()
    try:
        with _bar(target, missing) as bar:
            for block in missing:
                first = target.start(block)
                target.write(block, recommend(reader.read(first, target.size(block)), first, bar.update))
    finally:
        recommend.close()
    return time.perf_counter() - start


def _bar(target: Output, missing: Sequence[int]) -> "tqdm[NoReturn]":
    num_missing = sum(target.size(block) for block in missing)
    return tqdm(total=target.num_rows, initial=target.num_rows - num_missing, desc="Recommending", unit=" users")


def _summary(
    target: Output, options: RecommendOptions, num_users: int, num_resumed: int, facts: InputFacts, seconds: float
) -> RecommendSummary:
    short = target.count_short_lists(options.k)
    return RecommendSummary(target.path, num_users, num_resumed, facts.num_unknown, short, seconds)


def _check_output(output: Path, histories: Path) -> None:
    if output.is_dir():
        raise DataError(f"{output} is a folder; the output is one parquet file. Name a file in it.")
    place, source = output.resolve(), histories.resolve()
    if place == source or (source.is_dir() and source in place.parents):
        raise DataError(
            f"{output} lies in the input {histories}: the next call would read it as histories. Name a file elsewhere."
        )


def _check_prompts(checkpoint: Recommending, facts: InputFacts) -> None:
    """The longest prompt fits the model, and a user without a history has one."""
    if isinstance(checkpoint, ServedSetRec):
        return
    catalog = checkpoint.catalog
    prompt_tokens = checkpoint.prompter(catalog)
    if facts.has_empty and not prompt_tokens([]):
        raise DataError(
            "Some histories are empty, or have no item of the catalog, and the prompt of this checkpoint is nothing "
            "but the history. Leave these users out."
        )
    room = checkpoint.max_prompt_tokens
    if room is None:
        return
    # semantic IDs are of one length; of titles, the longest one all along is the longest prompt that there can be
    widest = catalog.item_ids[0]
    if not catalog.num_codebooks:
        renderer = checkpoint.renderer(catalog)
        widest = max(catalog.item_ids, key=lambda item_id: len(renderer.item_tokens(item_id)))
    longest = len(prompt_tokens([widest] * facts.longest))
    if longest > room:
        raise DataError(
            f"The longest history makes a prompt of {longest} tokens; the model has room for {room} before a semantic "
            "ID. Shorten the histories."
        )


def _check_space(output: Path, num_bytes: int) -> None:
    """Refuse what can't fit; the parts and the file that is joined from them are there at the same time."""
    place = output.resolve().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < 2 * num_bytes:
        raise DataError(
            f"{output} needs {2 * num_bytes / 1e9:.1f} GB or more while it is made, and {free / 1e9:.1f} GB are free. "
            "Make room, or name an output elsewhere."
        )
