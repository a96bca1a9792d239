"""Blocks of users on many machines: a Ray Data job whose workers each hold the model.

The job's rows are block numbers. Workers read their blocks from the input themselves, so input and checkpoint lie
where every machine sees them under the same name; the tables come back to this process, which alone writes parts.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.schema import DataError
from llmrec.serving.batch.block import BlockRecommender, Progress, checkpoint_fingerprint
from llmrec.serving.batch.input import Histories, HistoryReader
from llmrec.serving.batch.options import RecommendOptions
from llmrec.serving.batch.parts import Output
from llmrec.serving.checkpoint import open_recommending


def run_blocks(
    checkpoint_name: str,
    source: Histories,
    target: Output,
    missing: Sequence[int],
    options: RecommendOptions,
    progress: Progress,
) -> float:
    """Recommend for the missing blocks and write them as they come, in any order.

    Args:
        checkpoint_name: as every worker can open it.
        source: the input.
        target: takes the blocks.
        missing: block numbers, one or more.
        options: resolved. Each of ``num_workers`` takes a GPU where the cluster has some, else a CPU core.
        progress: told of users as they are done.

    Returns:
        seconds, with loading the models.

    Raises:
        DataError: if ``device`` is a GPU and the cluster has none.
        RuntimeError: if a worker fails, or sees another checkpoint or input.
    """
    folder = Path(checkpoint_name)  # workers on other machines start in other folders
    place = str(folder.absolute()) if folder.is_dir() else checkpoint_name
    with cluster() as ray:
        start = time.perf_counter()
        try:
            for batch in _tables(ray, place, source, target, missing, options):
                _write(batch, target, progress)
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                "A Ray worker failed. Finished blocks are kept, and the same command goes on from them. It said: "
                + str(error).strip().rpartition("\n")[2]
            ) from error
        return time.perf_counter() - start


def _tables(
    ray: Any, place: str, source: Histories, target: Output, missing: Sequence[int], options: RecommendOptions
) -> Iterator[pa.Table]:
    """The rows of one block or several, with a column ``block``, as they are done."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False  # ours tells users a second
    with ray.data.DataContext.current(context):
        # one row a Ray block: each is a task of its own, and comes back as soon as it is done
        jobs = ray.data.from_items(
            [{"block": block, "start": target.start(block), "size": target.size(block)} for block in missing],
            override_num_blocks=len(missing),
        )
        tables = jobs.map_batches(
            _Worker,
            fn_constructor_args=(place, target.job["checkpoint"], source, options),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(options.num_workers, len(missing))),
            num_cpus=1,
            num_gpus=gpus(ray, options.device),
        )
        yield from tables.iter_batches(batch_size=None, batch_format="pyarrow")


def _write(batch: pa.Table, target: Output, progress: Progress) -> None:
    """Save the blocks that came back together."""
    for block in pc.unique(batch["block"]).to_pylist():
        table = batch.filter(pc.equal(batch["block"], block)).drop_columns("block")
        target.write(block, table)
        progress(table.num_rows)


class _Worker:
    """The model in one process of the cluster."""

    def __init__(self, checkpoint_name: str, fingerprint: str, source: Histories, options: RecommendOptions) -> None:
        checkpoint = open_recommending(checkpoint_name)
        if (found := checkpoint_fingerprint(checkpoint.folder)) != fingerprint:
            raise DataError(
                f"On this worker {checkpoint_name} is the checkpoint {found}, and the job was started with "
                f"{fingerprint}. Put the checkpoint where all machines see the same one."
            )
        self._recommend = BlockRecommender(checkpoint, options)
        self._reader = HistoryReader(source)

    def __call__(self, job: pa.Table) -> pa.Table:
        block, start, size = (job[name][0].as_py() for name in ("block", "start", "size"))
        table = self._recommend(self._reader.read(start, size), start, _no_progress)
        return table.append_column("block", pa.array([block] * size, pa.int64()))


def _no_progress(_: int) -> None:
    """This process tells of whole blocks."""


@contextmanager
def cluster() -> Iterator[Any]:
    """Ray, joined to the cluster of ``RAY_ADDRESS`` or of this machine, or started here for the time of the job."""
    import ray  # noqa: PLC0415 -- an extra; the options were checked for it
    import ray.data  # noqa: PLC0415 -- as above

    joined = ray.is_initialized()
    if not joined:
        ray.init(log_to_driver=False)
    try:
        yield ray
    finally:
        if not joined:
            ray.shutdown()


def gpus(ray: Any, device: str) -> int:
    """GPUs of each worker."""
    if device == "cpu":
        return 0
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    if device != "auto" and not has_gpus:
        raise DataError(f"device is {device!r}, but the Ray cluster has no GPU. Give cpu, or auto.")
    return int(has_gpus)
