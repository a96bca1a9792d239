"""A block of users: histories in, a table of recommendations out, with either engine."""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmrec.catalog import Catalog
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import Rules
from llmrec.evaluation.recommender import prior_scores
from llmrec.serving.batch.options import RecommendOptions
from llmrec.serving.checkpoint import EngineKind, Recommending, ServedCheckpoint, ServedSetRec, make_engine
from llmrec.serving.engines.engine import RankRequest

#: One row per history, in the order of the input; lists are best first, and shorter than k where there were no more.
RECOMMENDATIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("titles", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("semantic_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
    ]
)

#: Files of a checkpoint that its recommendations depend on.
_CHECKPOINT_FILES = (
    *("model*.safetensors", "item_features.safetensors", "config.json", "llmrec.json", "tokenizer.json", "*.jinja"),
    *("catalog.json", "prompts.json", "user_index/*", "fusion/*"),
)
#: Item indices, best first, and their scores.
Ranked = tuple[list[int], list[float]]

#: Told how many more users have their list.
Progress = Callable[[int], object]


class Ranker(ABC):
    """A loaded model that ranks a block of requests."""

    @abstractmethod
    def rank(self, requests: Sequence[RankRequest], progress: Progress) -> list[Ranked]:
        """Lists in the order of ``requests``, which differ in prompt and rules only."""

    @abstractmethod
    def close(self) -> None:
        """Release the model."""


class SearchRanker(Ranker):
    """The beam search of offline evaluation, in this process."""

    def __init__(self, checkpoint: ServedCheckpoint, options: RecommendOptions) -> None:
        model = checkpoint.load_model(options.device, options.dtype)
        renderer = checkpoint.renderer(checkpoint.catalog)
        trie = DeviceTrie(renderer.trie, renderer.code_token_ids, model.device)
        self._batch_size = options.batch_size
        self._search = BeamSearch(model, trie, options.scores or checkpoint.scores)
        self._fusion = checkpoint.fusion(checkpoint.catalog)

    def rank(self, requests: Sequence[RankRequest], progress: Progress) -> list[Ranked]:
        ranked: list[Ranked] = [([], [])] * len(requests)
        # prompts of a length go together, the longest first: what does not fit in memory fails at once
        order = sorted(range(len(requests)), key=lambda row: -len(requests[row].prompt))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            batch = [requests[row] for row in rows]
            lists = self._search(
                [request.prompt for request in batch],
                batch[0].num_beams,
                batch[0].k,
                [request.rules for request in batch],
                prior=prior_scores(self._fusion, [request.history for request in batch]),
            )
            for row, items, scores in zip(rows, lists.items.tolist(), lists.scores.tolist(), strict=True):
                count = sum(item >= 0 for item in items)
                ranked[row] = items[:count], scores[:count]
            progress(len(rows))
        return ranked

    def close(self) -> None:
        del self._search


class EngineRanker(Ranker):
    """An engine of the server, with ``batch_size`` requests in flight."""

    def __init__(self, kind: EngineKind, checkpoint: Recommending, options: RecommendOptions) -> None:
        self._engine = make_engine(kind, checkpoint, options.engine_options)
        self._batch_size = options.batch_size
        self._runner = asyncio.Runner()
        self._runner.run(self._engine.start())
        self._loaded = self._runner.run(self._engine.load(checkpoint.catalog, checkpoint.folder))

    def rank(self, requests: Sequence[RankRequest], progress: Progress) -> list[Ranked]:
        return self._runner.run(self._rank_all(requests, progress))

    def close(self) -> None:
        self._runner.run(self._engine.close())
        self._runner.close()

    async def _rank_all(self, requests: Sequence[RankRequest], progress: Progress) -> list[Ranked]:
        slots = asyncio.Semaphore(self._batch_size)

        async def rank(request: RankRequest) -> Ranked:
            async with slots:
                ranked = await self._engine.rank(self._loaded, request)
            progress(1)
            return ranked.items, ranked.scores

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(rank(request)) for request in requests]
        return [task.result() for task in tasks]


class BlockRecommender:
    """A checkpoint, loaded to answer blocks of histories.

    Args:
        checkpoint: whose model ranks.
        options: resolved.
    """

    def __init__(self, checkpoint: Recommending, options: RecommendOptions) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._prompt_tokens = checkpoint.prompter(checkpoint.catalog)
        self._ranker: Ranker
        if options.engine == "vllm" or isinstance(checkpoint, ServedSetRec):
            kind: EngineKind = "vllm" if options.engine == "vllm" else "transformers"
            self._ranker = EngineRanker(kind, checkpoint, options)
        else:
            self._ranker = SearchRanker(checkpoint, options)

    def __call__(self, block: pa.Table, first_row: int, progress: Progress) -> pa.Table:
        """Recommendations for a block.

        Args:
            block: columns as ``Histories.columns`` names what they mean.
            first_row: of the block in the whole input; numbers users that have no id.
            progress: told of users as they are done.

        Returns:
            a table of ``RECOMMENDATIONS``, row by row.
        """
        columns = {name: block[name].to_pylist() for name in block.column_names}
        seen = columns.get("seen_item_ids", columns["history"])
        none: list[list[str]] = [[]] * block.num_rows
        known_users = columns.get("user_id") or [None] * block.num_rows
        rows = zip(columns["history"], seen, columns.get("exclude", none), known_users, strict=True)
        requests = [self._request(*row) for row in rows]
        user_ids = columns.get("user_id") or [str(first_row + row) for row in range(block.num_rows)]
        return _table(self._checkpoint.catalog, user_ids, self._ranker.rank(requests, progress))

    def close(self) -> None:
        self._ranker.close()

    def _request(self, history: list[str], seen: list[str], exclude: list[str], user_id: str | None) -> RankRequest:
        # rows with unknown items come this far only where they may be skipped
        index = self._checkpoint.catalog.item_index
        known = [item_id for item_id in history if item_id in index]
        ruled_out = exclude if self._options.include_seen else [*exclude, *seen]
        items = sorted({index[item_id] for item_id in ruled_out if item_id in index})
        assert self._options.num_beams is not None
        prompt = self._prompt_tokens(known, user_id)
        rows, rules = [index[item_id] for item_id in known], Rules(exclude=items)
        return RankRequest(prompt, self._options.num_beams, self._options.k, rules, history=rows)


def checkpoint_fingerprint(folder: Path) -> str:
    """16 hex digits over the files that a checkpoint's recommendations depend on, weights included."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern)):
        with path.open("rb") as opened:
            digest.update(str(path.relative_to(folder)).encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _table(catalog: Catalog, user_ids: Sequence[str], ranked: Sequence[Ranked]) -> pa.Table:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items, _ in ranked])])
    flat = np.array([item for items, _ in ranked for item in items], dtype=np.int64)
    codes = pa.array(catalog.semantic_ids[flat].reshape(-1))
    semantic_ids = pa.ListArray.from_arrays(np.arange(len(flat) + 1) * catalog.num_codebooks, codes)
    lists = [
        catalog.items["item_id"].take(flat).combine_chunks(),
        catalog.items["title"].take(flat).combine_chunks(),
        pa.array([score for _, scores in ranked for score in scores], pa.float32()),
        semantic_ids,
    ]
    columns = [pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values) for values in lists]
    return pa.Table.from_arrays([pa.array(user_ids, pa.string()), *columns], schema=RECOMMENDATIONS)
