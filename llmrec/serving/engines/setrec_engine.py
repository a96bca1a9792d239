"""SETRec in this process: one forward pass for each request, and the catalogue scored, in dynamic batches."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmrec.catalog import Catalog
from llmrec.models.setrec import ItemFeatures, SetRecModel
from llmrec.models.setrec.search import SetSearch, best_items
from llmrec.schema import DataError
from llmrec.serving.checkpoint import EngineOptions, ServedSetRec
from llmrec.serving.engines.batching import BatchingEngine, Pending
from llmrec.serving.engines.engine import LoadedCatalog, RankedList, RankRequest, TextChunk, TextRequest


@dataclass(frozen=True)
class _Scored(LoadedCatalog):
    search: SetSearch


class SetRecEngine(BatchingEngine):
    """Ranks with scores of the whole catalogue; writes no text.

    Args:
        checkpoint: to serve.
        options: of these, ``device``, ``dtype``, ``max_batch_size`` and ``num_workers``.
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
        scores = loaded.search.score([request.prompt for request in requests]).grounded(self._model.config.beta)
        items, values = best_items(scores, max(request.k for request in requests), _banned(requests, scores))
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
        search = SetSearch(self._model, features)
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


def _banned(requests: Sequence[RankRequest], scores: Tensor) -> Tensor:
    """True where a request may not have an item, shape of ``scores``."""
    banned = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for row, request in enumerate(requests):
        if request.rules is None:
            continue
        if request.rules.allow is not None:
            banned[row] = True
            banned[row, list(request.rules.allow)] = False
        banned[row, list(request.rules.exclude)] = True
    return banned


def _ranked_list(items: list[int], scores: list[float]) -> RankedList:
    count = sum(item >= 0 for item in items)
    return RankedList(items[:count], scores[:count], [[] for _ in range(count)])
