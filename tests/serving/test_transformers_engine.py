"""The engine in this process: batches give what single searches give, and a bad request fails alone."""

import asyncio

import pytest

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.rules import Rules
from llmrec.evaluation.recommender import prior_scores
from llmrec.serving.checkpoint import EngineOptions, make_engine
from llmrec.serving.engines.engine import RankRequest, TextRequest


def run(checkpoint, work, **options):
    """``work(engine, loaded)`` on a started engine."""

    async def session():
        engine = make_engine("transformers", checkpoint, EngineOptions(device="cpu", **options))
        await engine.start()
        try:
            return await work(engine, await engine.load(checkpoint.catalog, checkpoint.folder))
        finally:
            await engine.close()

    return asyncio.run(session())


def requests(checkpoint, count=24):
    renderer = checkpoint.renderer(checkpoint.catalog)
    ids = checkpoint.catalog.item_ids
    for row in range(count):
        history = ids[row : row + 1 + row % 5]
        rules = Rules(exclude=list(range(row, row + 3))) if row % 3 else None
        cap = 2 if row % 4 == 0 else None
        prompt = checkpoint.prompt_tokens(renderer, history)
        # of others only the prompt is known
        rows = checkpoint.catalog.rows_of(history) if row % 7 < 4 else ()
        yield RankRequest(prompt, 5 + row % 2 * 5, 1 + row % 5, rules, cap, row % 2 == 0, rows)


def search_alone(checkpoint, catalog, search, request, trace=None):
    """The decoder's own list, one search at a time, with what the checkpoint mixes in."""
    prior = prior_scores(checkpoint.fusion(catalog), [request.history])
    shared = [request.prompt], request.num_beams, request.k, [request.rules], request.max_per_first_code
    return search(*shared, trace, prior)


def test_concurrent_requests_get_the_lists_of_single_searches(checkpoint):
    asked = list(requests(checkpoint))

    async def work(engine, loaded):
        return await asyncio.gather(*(engine.rank(loaded, request) for request in asked))

    answers = run(checkpoint, work, max_batch_size=4)
    search = BeamSearch.from_catalog(checkpoint.load_model(), checkpoint.catalog, checkpoint.vocabulary)
    for request, answer in zip(asked, answers, strict=True):
        alone = search_alone(checkpoint, checkpoint.catalog, search, request)
        assert answer.items == [item for item in alone.items[0].tolist() if item >= 0]
        assert answer.scores == pytest.approx(alone.scores[0, : len(answer.items)].tolist(), abs=1e-4)
        for score, log_probs in zip(answer.scores, answer.code_log_probs, strict=True):
            assert sum(log_probs) == pytest.approx(score, abs=1e-4)
            assert len(log_probs) == checkpoint.catalog.num_codebooks
        assert (answer.levels is not None) == request.trace


def test_trace_tells_who_lived_and_who_died(checkpoint):
    request = next(requests(checkpoint, 1))

    async def work(engine, loaded):
        return await engine.rank(loaded, request)

    answer = run(checkpoint, work)
    ids = checkpoint.catalog.semantic_ids
    alive = {()}
    for depth, beams in enumerate(answer.levels, start=1):
        assert all(len(beam.codes) == depth and beam.codes[:-1] in alive for beam in beams)
        survivors = [beam for beam in beams if beam.survives]
        assert 0 < len(survivors) <= request.num_beams
        assert [beam.score for beam in survivors] == sorted((beam.score for beam in survivors), reverse=True)
        for beam in beams:
            assert beam.num_items == (ids[:, :depth] == beam.codes).all(1).sum() > 0
        alive = {beam.codes for beam in survivors}
    assert {tuple(ids[item].tolist()) for item in answer.items} <= alive


def test_a_bad_request_fails_alone(checkpoint):
    good = list(requests(checkpoint, 3))
    bad = RankRequest([1] * 100_000, 5, 3)

    async def work(engine, loaded):
        asked = [*good, RankRequest(bad.prompt, good[0].num_beams, 3), RankRequest(good[1].prompt, 5, 9)]
        return await asyncio.gather(*(engine.rank(loaded, request) for request in asked), return_exceptions=True)

    *lists, too_long, too_many = run(checkpoint, work)
    assert all(answer.items for answer in lists)
    assert isinstance(too_long, ValueError)
    assert "positions" in str(too_long)
    assert isinstance(too_many, ValueError)
    assert "num_beams" in str(too_many)


def test_text_in_pieces_is_the_greedy_text(checkpoint):
    prompt = checkpoint.vocabulary.encode_text("Film 3 of the sea and")
    model, tokenizer = checkpoint.load_model(), checkpoint.tokenizer

    async def work(engine, loaded):  # noqa: ARG001
        chunks = [chunk async for chunk in engine.generate(TextRequest(prompt, 12))]
        whole = "".join(chunk.text for chunk in chunks)
        stopped = [chunk async for chunk in engine.generate(TextRequest(prompt, 12, stop=[whole[4:6]]))]
        sampled = []
        for seed in (1, 1, 2):
            request = TextRequest(prompt, 8, temperature=1.0, seed=seed)
            sampled.append("".join([chunk.text async for chunk in engine.generate(request)]))
        async for _ in engine.generate(TextRequest(prompt, 200)):
            break  # a client that goes away
        return chunks, whole, stopped, sampled

    chunks, whole, stopped, sampled = run(checkpoint, work)
    import torch  # noqa: PLC0415

    ids = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    assert whole == tokenizer.decode(ids, skip_special_tokens=True).rstrip("\N{REPLACEMENT CHARACTER}")
    assert sum(chunk.num_tokens for chunk in chunks) == len(ids)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    text = "".join(chunk.text for chunk in stopped)
    assert whole[4:6] not in text
    assert whole.startswith(text)
    assert stopped[-1].finish_reason == "stop"
    assert sampled[0] == sampled[1] != sampled[2]
