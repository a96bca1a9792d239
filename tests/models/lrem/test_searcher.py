"""Thoughts that end in time, and searches that find what is nearest."""

import inspect

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmrec.models.lrem import LremSearcher, add_embeddings
from llmrec.models.lrem.thinking import think
from tests.models.lrem.conftest import LINES, make_prompts

QUERIES = ["something red", "a much longer query about cold and quiet things", "flat"]


def _greedy(model, prompts, query):
    """Token by token, without a cache."""
    ids, thought = [*prompts.query(query), prompts.tokens.think], []
    while len(thought) < prompts.max_thought_tokens:
        token_id = int(model(torch.tensor([ids + thought])).logits[0, -1].argmax())
        if token_id in prompts.end_token_ids:
            break
        thought.append(token_id)
    return thought


def test_thoughts_of_a_batch_are_those_written_one_by_one(prompts, model) -> None:
    asked = [prompts.query(query) for query in QUERIES]
    expected = [_greedy(model, prompts, query) for query in QUERIES]
    assert any(expected)
    assert think(model, prompts, asked, batch_size=2) == expected
    assert think(model, prompts, asked, batch_size=8) == expected


@pytest.mark.parametrize("token", ["</think>", "<emb>", "<think>", "<|endoftext|>", None])
def test_a_model_that_writes_one_token_for_ever_is_stopped(prompts, model, token) -> None:
    """None is a word: the thought ends at the cap; any control token ends it at once."""
    token_id = 40 if token is None else prompts.tokenizer.convert_tokens_to_ids(token)
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[token_id] = 1.0
    model.lm_head = head
    thoughts = think(model, prompts, [prompts.query(query) for query in QUERIES], batch_size=2)
    assert thoughts == [[] if token else [40] * 16] * 3
    searcher = LremSearcher(prompts, LINES, batch_size=4)
    assert np.isfinite(searcher.embed_queries(model, QUERIES, thoughts)).all()


def test_a_model_thinks_the_same_once_it_returns_embeddings(prompts) -> None:
    """generate reads the signature of the forward; positions of GPT-2 are learned, and queries padded on the left."""
    vocabulary = len(prompts.tokenizer)
    config = GPT2Config(vocab_size=vocabulary, n_positions=128, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    asked = [prompts.query(query) for query in QUERIES]
    before = think(model, prompts, asked, batch_size=3)
    signature = inspect.signature(model.forward).parameters
    add_embeddings(model)
    assert think(model, prompts, asked, batch_size=3) == before
    assert {*signature} | {"lengths", "rows_at_a_time"} == {*inspect.signature(model.forward).parameters}


def test_a_search_takes_the_highest_cosines(prompts, model) -> None:
    searcher = LremSearcher(prompts, LINES, batch_size=5)
    ranked = searcher.search(model, QUERIES, 4)
    thoughts = searcher.write_thoughts(model, QUERIES)
    scores = searcher.embed_queries(model, QUERIES, thoughts) @ searcher.embed_items(model).T
    assert (ranked == np.argsort(-scores, axis=1, kind="stable")[:, :4]).all()
    assert np.allclose(np.linalg.norm(searcher.embed_items(model), axis=1), 1, atol=1e-5)


def test_thoughts_can_be_replaced(prompts, model) -> None:
    searcher = LremSearcher(prompts, LINES, batch_size=5)
    own = searcher.write_thoughts(model, QUERIES)
    assert searcher.write_thoughts(model, QUERIES, "empty") == [[], [], []]
    assert searcher.write_thoughts(model, QUERIES, "query") == [prompts.vocabulary.encode_text(q) for q in QUERIES]
    others = [QUERIES[1], QUERIES[2], QUERIES[0]]
    assert len({tuple(thought) for thought in own}) == 3
    expected = searcher.embed_queries(model, QUERIES, [own[1], own[2], own[0]]) @ searcher.embed_items(model).T
    ranked = searcher.search(model, QUERIES, 4, thoughts_of=others)
    assert (ranked == np.argsort(-expected, axis=1, kind="stable")[:, :4]).all()
    assert (searcher.search(model, QUERIES, 4, "empty") != searcher.search(model, QUERIES, 4, "query")).any()


def test_without_reasoning_nothing_is_written(model) -> None:
    plain = LremSearcher(make_prompts(reasoning=False), LINES, batch_size=5)
    assert plain.write_thoughts(model, QUERIES) == [[], [], []]
