"""LREM's engine: what it embeds and finds is what the searcher embeds and finds, whatever shares its batches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmrec.catalog import Catalog
from llmrec.decoding.rules import Rules
from llmrec.models.lrem import LremSearcher
from llmrec.models.lrem.searcher import embed_sequences
from llmrec.schema import ITEMS, DataError
from llmrec.serving.checkpoint import EngineOptions, ServedLrem, default_engine, make_engine, open_served
from llmrec.serving.engines import lrem_engine
from llmrec.serving.engines.engine import Embedded, EmbedRequest, RankedList, RankRequest, TextRequest
from llmrec.serving.engines.lrem_engine import LremEngine
from tests.serving.tiny_lrem import NUM_ITEMS, QUERIES, plain_catalog, save_tiny_lrem

T = TypeVar("T")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lrem(tmp_path_factory.mktemp("serving") / "lrem")


@pytest.fixture
def served(folder: Path) -> ServedLrem:
    """Opened anew: tests change the model."""
    checkpoint = open_served(str(folder))
    assert isinstance(checkpoint, ServedLrem)
    return checkpoint


def run(served: ServedLrem, session: Callable[[LremEngine], Awaitable[T]], **options: Any) -> T:
    """What ``session`` returns, of an engine that is started and closed around it."""

    async def whole() -> T:
        engine = make_engine("transformers", served, EngineOptions(device="cpu", **options))
        assert isinstance(engine, LremEngine)
        await engine.start()
        try:
            return await session(engine)
        finally:
            await engine.close()

    return asyncio.run(whole())


def embed_all(served: ServedLrem, requests: Sequence[EmbedRequest], **options: Any) -> list[Embedded]:
    """All at the same time."""

    async def session(engine: LremEngine) -> list[Embedded]:
        return await asyncio.gather(*map(engine.embed, requests))

    return run(served, session, **options)


def queries(served: ServedLrem, texts: Sequence[str] = QUERIES) -> list[EmbedRequest]:
    return [EmbedRequest(served.prompts.query(text), is_query=True) for text in texts]


def test_embeddings_are_those_of_the_searcher(served: ServedLrem) -> None:
    model = served.load_model()
    searcher = LremSearcher(served.prompts, [], 1)
    thoughts = searcher.write_thoughts(model, QUERIES)
    answers = embed_all(served, queries(served))
    assert [answer.thought for answer in answers] == thoughts
    assert len({tuple(thought) for thought in thoughts}) > 1
    expected = searcher.embed_queries(model, QUERIES, thoughts)
    np.testing.assert_allclose([answer.vector for answer in answers], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, atol=1e-5)


def test_one_alone_and_many_together_are_embedded_alike(served: ServedLrem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is never seen, of queries beside items either."""
    sizes = []

    def spied(model: Any, sequences: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
        sizes.append(len(sequences))
        return embed_sequences(model, sequences, batch_size)

    monkeypatch.setattr(lrem_engine, "embed_sequences", spied)
    line = EmbedRequest(served.prompts.item("Film 3 of the sea"), is_query=False)
    asked = [*queries(served), line, *queries(served, ["x" * 500])]
    together = embed_all(served, asked, num_workers=1)
    assert max(sizes) == len(asked)
    sizes.clear()
    alone = embed_all(served, asked, num_workers=1, max_batch_size=1)
    assert sizes == [1] * len(asked)
    for one, many in zip(alone, together, strict=True):
        assert one.thought == many.thought
        np.testing.assert_allclose(one.vector, many.vector, atol=1e-5)
    assert alone[4].thought == []


def test_lists_are_those_of_exhaustive_search(served: ServedLrem) -> None:
    vectors = served.checkpoint.item_embeddings
    rules = [None, Rules([3, 4, 5]), Rules(list(range(NUM_ITEMS - 2))), None]
    ks = [7, 1, 5, NUM_ITEMS + 10]

    async def session(engine: LremEngine) -> list[RankedList]:
        loaded = await engine.load(served.catalog, served.folder)
        asked = [
            RankRequest(request.prompt, 1, k, rule) for request, k, rule in zip(queries(served), ks, rules, strict=True)
        ]
        return await asyncio.gather(*(engine.rank(loaded, request) for request in asked))

    lists, embedded = run(served, session), embed_all(served, queries(served))
    for ranked, query, k, rule in zip(lists, embedded, ks, rules, strict=True):
        scores = vectors @ query.vector
        banned = [] if rule is None else list(rule.exclude)
        allowed = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in banned]
        assert ranked.items == allowed[:k]
        np.testing.assert_allclose(ranked.scores, scores[ranked.items], atol=1e-5)
        assert ranked.thought == query.thought


def force(served: ServedLrem, token_ids: Sequence[int], value: float) -> None:
    """Make the model write these tokens always, or never."""

    def hook(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., list(token_ids)] = value
        return logits

    served.load_model().get_output_embeddings().register_forward_hook(hook)


def test_a_model_that_never_ends_its_thought_is_cut_at_sixteen_tokens(served: ServedLrem) -> None:
    force(served, served.prompts.end_token_ids, -torch.inf)
    requests = queries(served)
    answers = embed_all(served, requests)
    sequences = []
    for request, answer in zip(requests, answers, strict=True):
        assert len(answer.thought) == 16
        assert not set(answer.thought) & set(served.prompts.end_token_ids)
        closed = served.prompts.closed(answer.thought)
        assert closed[0] == served.prompts.tokens.think
        assert tuple(closed[-2:]) == served.prompts.tokens[1:]
        assert len(closed) == 19
        sequences.append([*request.prompt, *closed])
    expected = embed_sequences(served.load_model(), sequences, 1)
    np.testing.assert_allclose([answer.vector for answer in answers], expected, atol=1e-5)


@pytest.mark.parametrize("token", ["think", "end_think", "embed"])
def test_a_model_that_writes_nothing_but_a_control_token_has_an_empty_thought(served: ServedLrem, token: str) -> None:
    force(served, [getattr(served.prompts.tokens, token)], torch.inf)
    requests = queries(served)
    answers = embed_all(served, requests)
    assert [answer.thought for answer in answers] == [[]] * len(requests)
    expected = embed_sequences(
        served.load_model(), [[*request.prompt, *served.prompts.closed([])] for request in requests], 1
    )
    np.testing.assert_allclose([answer.vector for answer in answers], expected, atol=1e-5)


def test_a_model_without_reasoning_embeds_at_once(tmp_path: Path) -> None:
    served = open_served(str(save_tiny_lrem(tmp_path / "plain", reasoning=False)))
    assert isinstance(served, ServedLrem)
    requests = queries(served)
    answers = embed_all(served, requests)
    sequences = [[*request.prompt, served.prompts.tokens.embed] for request in requests]
    np.testing.assert_allclose(
        [answer.vector for answer in answers], embed_sequences(served.load_model(), sequences, 1), atol=1e-5
    )
    assert not any(answer.thought for answer in answers)


def test_a_new_catalogue_is_embedded_where_it_is_new(served: ServedLrem, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = []

    def spied(model: Any, sequences: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
        embedded.append(len(sequences))
        return embed_sequences(model, sequences, batch_size)

    monkeypatch.setattr(lrem_engine, "embed_sequences", spied)
    items = plain_catalog().items.to_pylist()
    items = [{**items[3], "brand": "A brand"}, *items[10:20][::-1], {**items[0], "item_id": "new", "title": "Ships"}]
    catalog = Catalog(pa.Table.from_pylist(items, ITEMS), np.empty((12, 0)), ())

    async def session(engine: LremEngine) -> np.ndarray:
        loaded = await engine.load(catalog, served.folder)
        own = await engine.load(served.catalog, served.folder)
        assert isinstance(own, lrem_engine._Indexed)
        assert isinstance(loaded, lrem_engine._Indexed)
        assert len(own.index) == NUM_ITEMS
        return loaded.index._index.reconstruct_n(0, 12)

    vectors = run(served, session)
    assert embedded == [2]
    lines = served.lines(catalog)
    expected = LremSearcher(served.prompts, lines, 4).embed_items(served.load_model())
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_checkpoints_of_pieces_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = open_served(str(folder))
    few = served.checkpoint.item_embeddings[:5]
    with monkeypatch.context() as patch:
        patch.setattr(type(served.checkpoint), "item_embeddings", few)
        with pytest.raises(ValueError, match=r"shape \(5, 64\); the catalogue and the model need \(40, 64\)"):
            open_served(str(folder))
    with pytest.raises(ValueError, match="has no beams"):
        make_engine("transformers", served, EngineOptions(scores="catalog"))
    with pytest.raises(ValueError, match="has no beams"):
        make_engine("vllm", served, EngineOptions(beam_search="stock"))
    assert default_engine(served) == "transformers"
    assert isinstance(served, ServedLrem)
    nameless = [{**plain_catalog(1).items.to_pylist()[0], "title": " ", "categories": []}]
    with pytest.raises(DataError, match="Item '0' has no title"):
        served.check_catalog(Catalog(pa.Table.from_pylist(nameless, ITEMS), np.empty((1, 0)), ()))


def test_it_writes_no_text(served: ServedLrem) -> None:
    async def session(engine: LremEngine) -> None:
        with pytest.raises(ValueError, match="no other text"):
            await anext(engine.generate(TextRequest([1], 5)))

    run(served, session)
