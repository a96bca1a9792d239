"""A SETRec checkpoint behind the same routes and commands: items in, items out, and new ones without retraining."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from llmrec import vector_index
from llmrec.catalog import Catalog
from llmrec.hub import save_checkpoint
from llmrec.models.from_config import SmallModelConfig, small_model_config, train_text_tokenizer
from llmrec.models.setrec import ItemFeatures, SetRecConfig, SetRecModel
from llmrec.models.setrec.extend import extend_items
from llmrec.models.setrec.recommender import SetRecRecommender
from llmrec.schema import ITEMS, DataError
from llmrec.serving.batch.options import RecommendOptions
from llmrec.serving.batch.recommend import recommend_file
from llmrec.serving.checkpoint import EngineOptions, default_engine, make_engine, open_served
from llmrec.serving.engines import setrec_engine
from llmrec.vector_index import IndexKind, VectorIndex
from tests.serving.running import running
from tests.tiny import make_catalog

NUM_ITEMS, MAX_HISTORY = 30, 5
ADMIN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model over 30 items, the last five of them cold."""
    catalog = Catalog(make_catalog(NUM_ITEMS).items, np.empty((NUM_ITEMS, 0)), ())
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    torch.manual_seed(0)
    small = SmallModelConfig(hidden_size=32, num_layers=1, num_heads=2, head_dim=16, intermediate_size=64)
    config = SetRecConfig(
        text_config=small_model_config(small, tokenizer),
        num_semantic_tokens=2,
        text_dim=384,  # the bundled encoder's
        cf_dim=8,
        encoder_sizes=[16],
        beta=0.4,
        instruction_token_ids=[3, 4],
    )
    model = SetRecModel(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    features = ItemFeatures(
        torch.randn(NUM_ITEMS, 8), torch.randn(NUM_ITEMS, 384) / 20, torch.arange(NUM_ITEMS) < NUM_ITEMS - 5
    )
    path = tmp_path_factory.mktemp("serving") / "setrec"
    prompts = {"max_history": MAX_HISTORY}
    save_checkpoint(path, model, tokenizer, catalog, None, {}, prompts, method="setrec", item_features=features)
    return path


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with running(open_served(str(folder)), admin_key="secret") as client:
        yield client


def ask(client: httpx.Client, route: str = "/v1/recommendations", **body: Any) -> httpx.Response:
    return client.post(route, json=body, headers=ADMIN)


def item_ids(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return [[item["item_id"] for item in user["items"]] for user in answer.json()["data"]]


def test_lists_are_those_of_offline_evaluation(client: httpx.Client, folder: Path) -> None:
    checkpoint = open_served(str(folder)).checkpoint
    histories = [[3, 4, 5], [], [9, 8, 7, 6, 5, 4, 3, 2]]
    recommender = SetRecRecommender(checkpoint.catalog.item_ids, MAX_HISTORY)
    offline = recommender.recommend(checkpoint.model, histories, 7, histories, progress=False)
    answer = ask(client, users=[{"history": [str(row) for row in history]} for history in histories], k=7)
    assert item_ids(answer) == [[str(row) for row in rows] for rows in offline]
    scores = [item["score"] for item in answer.json()["data"][0]["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(item["semantic_id"] == [] for item in answer.json()["data"][0]["items"])


def test_rules_hold(client: httpx.Client) -> None:
    users = [{"history": ["1", "2"]}, {"history": ["1", "2"], "rules": {"allow": ["5", "6", "1"], "exclude": ["6"]}}]
    first, second = item_ids(ask(client, users=users, k=29))
    assert set(first) == {str(row) for row in range(NUM_ITEMS)} - {"1", "2"}
    assert second == ["5"]
    (everything,) = item_ids(ask(client, users=users[:1], k=30, exclude_seen=False))
    assert len(everything) == NUM_ITEMS


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("/v1/recommendations", {"users": [{"history": ["1"]}], "trace": True}, "scores all items at once"),
        ("/v1/recommendations", {"users": [{"history": ["1"]}], "num_beams": 20}, "has no num_beams"),
        ("/v1/recommendations", {"users": [{"history": ["1"]}], "require_prefix": [1]}, "items have none"),
        ("/v1/recommendations", {"users": [{"history": ["1"]}], "max_per_first_code": 1}, "items have none"),
        ("/v1/completions", {"model": "setrec", "prompt": "Film"}, "reads item ids"),
        ("/v1/completions", {"model": "setrec", "prompt": "Film", "constrained": False}, "reads item ids"),
        ("/v1/chat/completions", {"model": "setrec", "messages": [{"role": "user", "content": "a"}]}, "reads item ids"),
    ],
)
def test_what_it_has_no_answer_to_is_refused_with_a_reason(
    client: httpx.Client, route: str, body: dict, message: str
) -> None:
    answer = ask(client, route, **body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


def test_items_are_shown_without_semantic_ids(client: httpx.Client) -> None:
    item = client.get("/v1/items/7").json()
    assert (item["item_id"], item["semantic_id"], item["text"]) == ("7", [], "")
    assert client.get("/v1/catalog").json()["num_codebooks"] == 0


def test_a_new_item_is_recommended_without_retraining(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    users = [{"history": ["3", "4"]}]
    before = ask(client, users=users, k=28).json()["data"][0]["items"]
    new = pa.Table.from_pylist(
        [{"item_id": "new", "title": "Film 7 of the sea", "description": "", "brand": "", "categories": []}], ITEMS
    )
    extend_items(folder, new, tmp_path / "more")
    changed = ask(client, "/v1/catalog/reload", folder=str(tmp_path / "more"))
    assert changed.json()["added"] == 1, changed.text
    after = ask(client, users=users, k=29).json()["data"][0]["items"]
    assert [item for item in after if item["item_id"] != "new"] == [
        {**item, "score": pytest.approx(item["score"], abs=1e-5)} for item in before
    ]
    assert item_ids(ask(client, users=[{"history": ["new"]}], k=1))
    assert client.post("/v1/catalog/rollback", headers=ADMIN).json()["removed"] == 1
    with pytest.raises(DataError, match="repeats item ids"):
        extend_items(tmp_path / "more", new, tmp_path / "again")


def test_a_catalogue_without_features_is_refused_and_the_old_one_stays(
    client: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    Catalog.load(folder).save(tmp_path)
    (tmp_path / "catalog.json").touch()
    fewer = Catalog(Catalog.load(folder).items.slice(0, 10), np.empty((10, 0)), ())
    fewer.save(tmp_path)
    answer = ask(client, "/v1/catalog/reload", folder=str(tmp_path))
    assert answer.status_code == 422
    assert "no item features" in answer.json()["error"]["message"]
    assert client.get("/v1/catalog").json()["num_items"] == NUM_ITEMS
    make_catalog(10).save(tmp_path)
    assert "another method's" in ask(client, "/v1/catalog/reload", folder=str(tmp_path)).json()["error"]["message"]


def test_features_of_another_run_are_refused(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    Catalog(Catalog.load(folder).items.slice(0, 29), np.empty((29, 0)), ()).save(tmp_path)
    features = ItemFeatures.load(folder)
    cf = features.cf[:29].clone()
    cf[7] += 1
    ItemFeatures(cf, features.text[:29], features.warm[:29]).save(tmp_path)
    answer = ask(client, "/v1/catalog/reload", folder=str(tmp_path))
    assert answer.status_code == 422
    assert "'7' has other embeddings" in answer.json()["error"]["message"]


def test_the_same_item_described_anew_is_read_anew(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    """Ids and titles stay, so the catalogue is the same; the text embedding is not."""
    tables = [
        pa.Table.from_pylist(
            [{"item_id": "new", "title": "Film", "description": text, "brand": "", "categories": []}], ITEMS
        )
        for text in ("Ships at sea", "A comedy of errors in a bakery")
    ]
    scores = []
    for name, table in zip(("first", "second"), tables, strict=True):
        extend_items(folder, table, tmp_path / name)
        assert ask(client, "/v1/catalog/reload", folder=str(tmp_path / name)).status_code == 200
        only_new = {"history": ["3"], "rules": {"allow": ["new"]}}
        scores += [ask(client, users=[only_new], k=1).json()["data"][0]["items"][0]["score"]]
    assert abs(scores[0] - scores[1]) > 1e-4
    assert ask(client, "/v1/catalog/reload", folder=str(folder)).status_code == 200


#: A user with rules and one without.
BODY: dict[str, Any] = {
    "users": [{"history": ["3", "4"]}, {"history": [], "rules": {"allow": ["7", "8"], "exclude": ["8"]}}],
    "k": 9,
}


@pytest.mark.parametrize("index", ["exact", "approximate"])
def test_an_index_is_searched_where_it_is_asked_for_or_the_catalogue_is_large(
    folder: Path, monkeypatch: pytest.MonkeyPatch, index: IndexKind
) -> None:
    made: list[object] = []
    search = VectorIndex.search

    def spied(self: VectorIndex, *args: Any) -> Any:
        made.append(self._index)
        return search(self, *args)

    monkeypatch.setattr(VectorIndex, "search", spied)
    monkeypatch.setattr(vector_index, "_FEWEST_PER_CELL", 5)  # 30 items are few: six cells, all of them searched
    served = open_served(str(folder))
    engine = make_engine("transformers", served, EngineOptions(device="cpu", index=index))
    monkeypatch.setattr(setrec_engine, "_LARGEST_PRODUCT", 29 if index == "exact" else 30)
    with running(served, engine) as indexed:
        answered = item_ids(ask(indexed, **BODY))
    monkeypatch.setattr(setrec_engine, "_LARGEST_PRODUCT", 30)
    assert {type(one) for one in made} == {faiss.IndexIVFFlat if index == "approximate" else faiss.IndexFlatIP}
    made.clear()
    with running(served) as plain:
        assert answered == item_ids(ask(plain, **BODY))
    assert not made
    assert answered[1] == ["7"]


def test_options_of_other_methods_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="ranks without beams"):
        make_engine("transformers", open_served(str(folder)), EngineOptions(scores="catalog"))
    with pytest.raises(DataError, match="scores all items"):
        RecommendOptions(num_beams=20).resolved(open_served(str(folder)))


def test_a_file_of_histories_gets_the_same_lists(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    histories = [["3", "4", "5"], ["9"], ["1", "2"]]
    pq.write_table(pa.table({"history": histories}), tmp_path / "histories.parquet")
    output = tmp_path / "lists.parquet"
    recommend_file(str(folder), tmp_path / "histories.parquet", output, RecommendOptions(k=6, batch_size=2))
    lists = pq.read_table(output)
    assert lists["item_ids"].to_pylist() == item_ids(ask(client, users=[{"history": one} for one in histories], k=6))
    assert lists["semantic_ids"].to_pylist() == [[[]] * 6] * 3


def test_vllm_is_refused_and_not_the_default(folder: Path) -> None:
    checkpoint = open_served(str(folder))
    assert default_engine(checkpoint) == "transformers"
    with pytest.raises(ValueError, match="--engine transformers"):
        make_engine("vllm", checkpoint, EngineOptions())


@pytest.mark.slow
def test_llmrec_serve_answers_for_it(serve, folder: Path) -> None:
    server = serve(folder)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        answer = ask(client, users=[{"user_id": "u", "history": ["3"]}], k=3)
    assert [len(items) for items in item_ids(answer)] == [3]
    assert answer.json()["model"] == "setrec"
