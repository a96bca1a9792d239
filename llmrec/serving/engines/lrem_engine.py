"""LREM in this process: thoughts, embeddings and the search of the index, each for a whole batch at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llmrec.catalog import Catalog
from llmrec.models.lrem.searcher import embed_sequences
from llmrec.models.lrem.thinking import think
from llmrec.serving.checkpoint import EngineOptions
from llmrec.serving.engines.batching import Batcher
from llmrec.serving.engines.engine import (
    Embedded,
    EmbeddingEngine,
    EmbedRequest,
    LoadedCatalog,
    RankedList,
    RankRequest,
    TextChunk,
    TextRequest,
)
from llmrec.serving.lrem_checkpoint import ServedLrem
from llmrec.vector_index import VectorIndex


@dataclass(frozen=True)
class _Indexed(LoadedCatalog):
    index: VectorIndex


@dataclass(frozen=True)
class Search:
    index: VectorIndex
    k: int
    exclude: Sequence[int]


@dataclass(frozen=True)
class Asked:
    text: EmbedRequest
    thought: list[int] | None  # where another model has written it already
    search: Search | None


@dataclass(frozen=True)
class Answered:
    embedded: Embedded
    items: list[int]
    scores: list[float]


class LremEngine(EmbeddingEngine):
    """Thinks, embeds and searches; writes no other text.

    Queries and items, to embed alone and to search with, share batches.

    Args:
        checkpoint: to serve.
        options: of these, ``device``, ``dtype``, ``max_batch_size``, ``num_workers`` and ``index``.
    """

    name = "transformers"

    def __init__(self, checkpoint: ServedLrem, options: EngineOptions) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._batches: Batcher[Asked, Answered] = Batcher(
            self._answer, lambda _: None, options.max_batch_size, options.num_workers
        )

    async def start(self) -> None:
        options = self._options
        self._model = await asyncio.to_thread(self._checkpoint.load_model, options.device, options.dtype)
        self._batches.start(self._model.device)

    async def load(self, catalog: Catalog, folder: Path) -> LoadedCatalog:  # noqa: ARG002 -- the catalog is all of it
        return await asyncio.to_thread(self._load, catalog)

    async def embed(self, request: EmbedRequest) -> Embedded:
        return (await self._ask(request, None)).embedded

    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        """Search for a query; of the rules, items to exclude are what it has."""
        assert isinstance(loaded, _Indexed)
        exclude = () if request.rules is None else request.rules.exclude
        found = await self._ask(EmbedRequest(request.prompt, is_query=True), Search(loaded.index, request.k, exclude))
        return RankedList(found.items, found.scores, [[] for _ in found.items], thought=found.embedded.thought)

    async def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:  # noqa: ARG002 -- refuses all
        raise ValueError("An LREM model writes keywords for queries, and no other text.")
        yield

    async def check(self) -> None:
        self._batches.check()

    async def close(self) -> None:
        await self._batches.close()

    async def _ask(self, text: EmbedRequest, search: Search | None) -> Answered:
        return await self._batches.ask(Asked(text, None, search))

    def _load(self, catalog: Catalog) -> _Indexed:
        """Index the catalogue; what the checkpoint has not embedded already is embedded now."""
        torch.set_num_threads(self._batches.threads)
        checkpoint = self._checkpoint
        rows = {line: row for row, line in enumerate(checkpoint.prompts.lines(checkpoint.catalog.items))}
        lines = checkpoint.lines(catalog)
        known = [place for place, line in enumerate(lines) if line in rows]
        new = [place for place, line in enumerate(lines) if line not in rows]
        vectors = np.empty((len(lines), checkpoint.width), dtype=np.float32)
        vectors[known] = checkpoint.checkpoint.item_embeddings[[rows[lines[place]] for place in known]]
        if new:
            sequences = [checkpoint.prompts.item(lines[place]) for place in new]
            vectors[new] = embed_sequences(self._model, sequences, self._options.max_batch_size)
        return _Indexed(catalog, checkpoint.prompter(catalog), None, VectorIndex(vectors, self._options.index))

    def _answer(self, batch: Sequence[Asked]) -> list[Answered]:
        """In a worker's thread: one search for thoughts, one forward pass for embeddings, one search of the index."""
        thoughts, sequences = self._sequences(batch)
        vectors = embed_sequences(self._model, sequences, len(batch))
        found = _search(vectors, [asked.search for asked in batch])
        return [
            Answered(Embedded(vector, thought), items, scores)
            for vector, thought, (items, scores) in zip(vectors, thoughts, found, strict=True)
        ]

    def _sequences(self, batch: Sequence[Asked]) -> tuple[list[list[int]], list[list[int]]]:
        """Thoughts, and what is embedded."""
        prompts = self._checkpoint.prompts
        thoughts = [asked.thought or [] for asked in batch]
        thinking = [
            row
            for row, asked in enumerate(batch)
            if asked.text.is_query and asked.thought is None and prompts.reasoning
        ]
        if thinking:
            written = think(self._model, prompts, [batch[row].text.prompt for row in thinking], len(thinking))
            for row, thought in zip(thinking, written, strict=True):
                thoughts[row] = thought
        sequences = [
            [*asked.text.prompt, *(prompts.closed(thought) if asked.text.is_query else [])]
            for asked, thought in zip(batch, thoughts, strict=True)
        ]
        return thoughts, sequences


def _search(vectors: np.ndarray, searches: Sequence[Search | None]) -> list[tuple[list[int], list[float]]]:
    """Items and their scores for each vector, where it is searched with; those of one index are searched together."""
    found: list[tuple[list[int], list[float]]] = [([], [])] * len(searches)
    by_index: dict[int, list[tuple[int, Search]]] = {}
    for row, search in enumerate(searches):
        if search is not None:
            by_index.setdefault(id(search.index), []).append((row, search))
    for asked in by_index.values():
        rows = [row for row, _ in asked]
        k = max(search.k for _, search in asked)
        items, scores = asked[0][1].index.search(vectors[rows], k, [search.exclude for _, search in asked])
        for place, (row, search) in enumerate(asked):
            count = int((items[place, : search.k] >= 0).sum())
            found[row] = items[place, :count].tolist(), scores[place, :count].tolist()
    return found
