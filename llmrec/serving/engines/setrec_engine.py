"""SETRec in this process: one forward pass for each request, and the catalogue scored, in dynamic batches."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llmrec.catalog import Catalog
from llmrec.models.setrec import ItemFeatures, SetRecModel
from llmrec.models.setrec.search import SetSearch
from llmrec.schema import DataError
from llmrec.serving.checkpoint import EngineOptions, ServedSetRec
from llmrec.serving.engines.batching import BatchingEngine, Pending
from llmrec.serving.engines.engine import LoadedCatalog, RankedList, RankRequest, TextChunk, TextRequest
from llmrec.vector_index import IndexKind

#: Items beyond which an exact search on a CPU takes an index, which holds no score of every item for every user.
_LARGEST_PRODUCT = 131_072


@dataclass(frozen=True)
class _Scored(LoadedCatalog):
    search: SetSearch


class SetRecEngine(BatchingEngine):
    """Ranks with scores of the whole catalogue; writes no text.

    Args:
        checkpoint: to serve.
        options: of these, ``device``, ``dtype``, ``max_batch_size``, ``num_workers`` and ``index``.
    """

    def __init__(self, checkpoint: ServedSetRec, options: EngineOptions) -> None:
        super().__init__(options.max_batch_size, options.num_workers)
        self._checkpoint = checkpoint
        self._options = options

    async def start(self) -> None:
        model = await asyncio.to_thread(self._checkpoint.load_model, self._options.device, self._options.dtype)
        assert isinstance(model, SetRecModel)
        self._model = model
        self.start_workers(model.queries.weight.device)

    async def load(self, catalog: Catalog, folder: Path) -> LoadedCatalog:
        return await asyncio.to_thread(self._load, catalog, folder)

    async def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:  # noqa: ARG002 -- refuses all
        raise ValueError("A SETRec model writes no text.")
        yield

    def batch_key(self, pending: Pending) -> Hashable:
        return id(pending.loaded)

    def search(self, batch: Sequence[Pending]) -> list[RankedList]:
        loaded, requests = batch[0].loaded, [pending.request for pending in batch]
        assert isinstance(loaded, _Scored)
        histories = [request.prompt for request in requests]
        exclude, allow = zip(*map(_limits, requests), strict=True)
        k = max(request.k for request in requests)
        items, values = loaded.search.best(histories, self._model.config.beta, k, exclude, allow)
        return [
            _ranked_list(row_items[: request.k], row_scores[: request.k])
            for request, row_items, row_scores in zip(requests, items.tolist(), values.tolist(), strict=True)
        ]

    def _load(self, catalog: Catalog, folder: Path) -> _Scored:
        torch.set_num_threads(self._threads)
        try:
            features = ItemFeatures.load(folder)
        except FileNotFoundError:
            raise DataError(f"{folder} holds no item features: make them with extend_items.") from None
        if len(features) != len(catalog):
            raise DataError(f"{folder} has features of {len(features)} items, and a catalogue of {len(catalog)}.")
        self._check_same_space(catalog, features)
        on_cpu = self._model.device.type == "cpu"
        index: IndexKind | None = self._options.index
        if index == "exact" and not (on_cpu and len(features) > _LARGEST_PRODUCT):
            index = None
        search = SetSearch(self._model, features, index)
        return _Scored(catalog, self._checkpoint.prompter(catalog), None, search)

    def _check_same_space(self, catalog: Catalog, features: ItemFeatures) -> None:
        """Items that the model was trained with must be embedded as they were then.

        Raises:
            DataError: naming one that is not.
        """
        trained, known = self._model.items, self._checkpoint.catalog.item_index
        now, then = [], []
        for row, item_id in enumerate(catalog.item_ids):
            if item_id in known:
                now.append(row)
                then.append(known[item_id])
        same = (features.cf[now] == trained.cf[then].cpu()).all(dim=1)
        same &= (features.text[now] == trained.text[then].cpu()).all(dim=1)
        if not same.all():
            item_id = catalog.item_ids[now[int(same.int().argmin())]]
            raise DataError(
                f"Item {item_id!r} has other embeddings than those that the model was trained with: add new items to "
                "the checkpoint's own catalogue, with extend_items."
            )


def _limits(request: RankRequest) -> tuple[Sequence[int], Sequence[int] | None]:
    """Items that a list may not hold, and the only ones that it may; None for all."""
    if request.rules is None:
        return (), None
    if isinstance(request.rules.allow, str):
        raise ValueError(f"allow names the subset {request.rules.allow!r}; SETRec is given item indices.")
    return request.rules.exclude, request.rules.allow


def _ranked_list(items: list[int], scores: list[float]) -> RankedList:
    count = sum(item >= 0 for item in items)
    return RankedList(items[:count], scores[:count], [[] for _ in range(count)])
