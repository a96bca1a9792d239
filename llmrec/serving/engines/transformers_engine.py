"""The engine in this process: our beam search with dynamic batching, and free text through ``generate``."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import torch

from llmrec.baselines import Fusion
from llmrec.catalog import Catalog
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.trace import BeamTrace
from llmrec.evaluation.recommender import prior_scores
from llmrec.serving.checkpoint import EngineOptions, ServedCheckpoint
from llmrec.serving.engines.batching import BatchingEngine, Pending
from llmrec.serving.engines.engine import LoadedCatalog, RankedList, TextChunk, TextRequest
from llmrec.serving.engines.ranked_lists import ranked_lists
from llmrec.serving.engines.text_generation import TextGeneration


@dataclass(frozen=True)
class _Searched(LoadedCatalog):
    search: BeamSearch
    fusion: Fusion | None


class TransformersEngine(BatchingEngine):
    """Ranks with beams, and writes text in a thread of its own.

    Args:
        checkpoint: to serve.
        options: of these, ``scores``, ``device``, ``dtype``, ``max_batch_size`` and ``num_workers``.
    """

    def __init__(self, checkpoint: ServedCheckpoint, options: EngineOptions) -> None:
        super().__init__(options.max_batch_size, options.num_workers)
        self._checkpoint = checkpoint
        self._options = options
        self._writing = ThreadPoolExecutor(1, "write", initializer=torch.set_num_threads, initargs=(self._threads,))

    async def start(self) -> None:
        options = self._options
        self._model = await asyncio.to_thread(self._checkpoint.load_model, options.device, options.dtype)
        self.start_workers(self._model.device)

    async def load(self, catalog: Catalog, folder: Path) -> LoadedCatalog:  # noqa: ARG002 -- the catalog is all of it
        return await asyncio.to_thread(self._load_catalog, catalog)

    async def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:
        generation = TextGeneration(self._model, self._checkpoint.tokenizer, request)
        async with aclosing(generation.run(self._writing)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._writing.shutdown)

    def batch_key(self, pending: Pending) -> Hashable:
        """Only the cap on a first code depends on the list length."""
        request = pending.request
        k = None if request.max_per_first_code is None else request.k
        return id(pending.loaded), request.num_beams, k, request.max_per_first_code

    def search(self, batch: Sequence[Pending]) -> list[RankedList]:
        loaded, requests = batch[0].loaded, [pending.request for pending in batch]
        assert isinstance(loaded, _Searched)
        trace, first = BeamTrace(), requests[0]
        ranked = loaded.search(
            [request.prompt for request in requests],
            first.num_beams,
            max(request.k for request in requests),
            [request.rules for request in requests],
            first.max_per_first_code,
            trace,
            prior_scores(loaded.fusion, [request.history for request in requests]),
        )
        return ranked_lists(loaded.search.trie, ranked, trace, requests)

    def _load_catalog(self, catalog: Catalog) -> _Searched:
        torch.set_num_threads(self._threads)
        renderer = self._checkpoint.renderer(catalog)
        device_trie = DeviceTrie(renderer.trie, renderer.code_token_ids, self._model.device)
        search = BeamSearch(self._model, device_trie, self._options.scores or self._checkpoint.scores)
        fusion = self._checkpoint.fusion(catalog)
        return _Searched(catalog, self._checkpoint.prompter(catalog), device_trie, search, fusion)
