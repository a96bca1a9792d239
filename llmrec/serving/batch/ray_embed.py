"""Embeddings of a catalogue over a Ray cluster: a copy of the model for each worker, parts handed out by Ray Data.

Only numbers of parts travel there. The workers read the items themselves, so items and checkpoint lie where every
machine sees them under the same name; the embeddings come back to this process, which alone writes parts.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.models.lrem.catalog_embeddings import EmbeddingParts, lines_fingerprint
from llmrec.models.lrem.searcher import embed_sequences
from llmrec.schema import DataError
from llmrec.serving.batch.block import checkpoint_fingerprint
from llmrec.serving.batch.embed import EmbedOptions, open_lrem, read_lines
from llmrec.serving.batch.ray_job import cluster, gpus


def embed_parts_on_ray(
    checkpoint_name: str,
    items: Path | None,
    job: Mapping[str, Any],
    parts: EmbeddingParts,
    options: EmbedOptions,
    done: Callable[[int], object],
) -> None:
    """Make the parts that are missing, one or more, as they come, in any order.

    Args:
        checkpoint_name: as every worker can open it.
        items: the table; None for the checkpoint's own.
        job: fingerprints that the workers must find too.
        parts: takes them.
        options: each of ``num_workers`` takes a GPU where the cluster has some, else a CPU core.
        done: told of items as they are done.

    Raises:
        DataError: if ``device`` is a GPU and the cluster has none.
        RuntimeError: if a worker fails, or sees another checkpoint or other items.
    """
    folder = Path(checkpoint_name)  # workers on other machines start in other folders
    place = str(folder.absolute()) if folder.is_dir() else checkpoint_name
    table = None if items is None else items.absolute()
    missing = parts.missing()
    with cluster() as ray:
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False  # ours tells items a second
        with ray.data.DataContext.current(context):
            # one row a Ray block: each is a task of its own, and comes back as soon as it is done
            asked = [{"part": part, "start": parts.rows(part).start, "stop": parts.rows(part).stop} for part in missing]
            embedded = ray.data.from_items(asked, override_num_blocks=len(missing)).map_batches(
                _Worker,
                fn_constructor_args=(place, table, dict(job), options),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(options.num_workers, len(missing))),
                num_cpus=1,
                num_gpus=gpus(ray, options.device),
            )
            try:
                for batch in embedded.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for part, flat in zip(batch["part"].to_pylist(), batch["vectors"], strict=True):
                        num_rows = len(parts.rows(part))
                        parts.write(part, flat.values.to_numpy().reshape(num_rows, -1))
                        done(num_rows)
            except ray.exceptions.RayError as error:
                raise RuntimeError(
                    "A Ray worker failed. Finished parts are kept, and the same command goes on from them. It said: "
                    + str(error).strip().rpartition("\n")[2]
                ) from error


class _Worker:
    """The model in one process of the cluster."""

    def __init__(self, checkpoint_name: str, items: Path | None, job: Mapping[str, Any], options: EmbedOptions) -> None:
        served = open_lrem(checkpoint_name)
        self._prompts = served.prompts
        self._lines = read_lines(served, items)
        found = {"checkpoint": checkpoint_fingerprint(served.folder), "items": lines_fingerprint(self._lines)}
        for name, fingerprint in found.items():
            if fingerprint != job[name]:
                raise DataError(
                    f"On this worker the {name} are {fingerprint}, and the job was started with {job[name]}. Put "
                    "checkpoint and items where all machines see the same ones."
                )
        self._model = served.load_model(options.device, options.dtype)
        self._batch_size = options.batch_size

    def __call__(self, asked: pa.Table) -> pa.Table:
        start, stop = asked["start"][0].as_py(), asked["stop"][0].as_py()
        sequences = [self._prompts.item(line) for line in self._lines[start:stop]]
        vectors = embed_sequences(self._model, sequences, self._batch_size)
        flat = pa.LargeListArray.from_arrays(np.array([0, vectors.size]), pa.array(vectors.reshape(-1)))
        return pa.table({"part": asked["part"], "vectors": flat})
