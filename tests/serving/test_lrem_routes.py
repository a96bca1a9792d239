"""``/v1/embeddings`` and ``/v1/search``: OpenAI's own client, odd input, limits, and a catalogue that changes."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pyarrow as pa
import pytest

from llmrec.catalog import Catalog
from llmrec.models.lrem import LremSearcher
from llmrec.models.lrem.searcher import embed_sequences
from llmrec.schema import ITEMS, DataError
from llmrec.serving.batch.recommend import RecommendOptions, recommend_file
from llmrec.serving.checkpoint import ServedLrem, open_served
from llmrec.serving.engines.engine import Embedded, EmbedRequest
from llmrec.serving.engines.lrem_engine import LremEngine
from tests.serving.running import error_of, running
from tests.serving.tiny_lrem import NUM_ITEMS, QUERIES, WIDTH, plain_catalog, save_tiny_lrem

ADMIN = {"Authorization": "Bearer secret"}
LONG = "sea " * 2500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lrem(tmp_path_factory.mktemp("serving") / "lrem")


@pytest.fixture(scope="module")
def served(folder: Path) -> ServedLrem:
    checkpoint = open_served(str(folder))
    assert isinstance(checkpoint, ServedLrem)
    return checkpoint


@pytest.fixture(scope="module")
def http(served: ServedLrem) -> Iterator[httpx.Client]:
    with running(served, admin_key="secret", max_k=20, max_users_per_request=5) as client:
        yield client


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(served: ServedLrem) -> tuple[np.ndarray, list[str]]:
    """Embeddings of ``QUERIES`` and the keywords before them, as the searcher makes them."""
    model, searcher = served.load_model(), LremSearcher(served.prompts, [], 8)
    thoughts = searcher.write_thoughts(model, QUERIES)
    return searcher.embed_queries(model, QUERIES, thoughts), [served.prompts.keywords(one) for one in thoughts]


def search(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_openais_client_gets_embeddings_in_either_encoding(client: openai.OpenAI, served: ServedLrem) -> None:
    vectors, keywords = expected(served)
    for encoding in ("float", "base64"):  # the client asks for base64 by itself
        options = {"encoding_format": "float"} if encoding == "float" else {}
        answer = client.embeddings.create(model="lrem", input=QUERIES, **options)
        np.testing.assert_allclose([one.embedding for one in answer.data], vectors, atol=1e-5)
        assert [(one.index, one.object) for one in answer.data] == [
            (0, "embedding"),
            *((i, "embedding") for i in (1, 2, 3)),
        ]
        assert not any(hasattr(one, "keywords") for one in answer.data)
    assert answer.model == "lrem"
    asked = sum(len(served.prompts.query(text)) for text in QUERIES)
    assert answer.usage.prompt_tokens == asked
    assert answer.usage.total_tokens > asked
    told = client.embeddings.create(model="lrem", input=QUERIES, extra_body={"return_keywords": True})
    assert [one.keywords for one in told.data] == keywords
    assert any(keywords)
    one = client.embeddings.create(model="lrem", input=QUERIES[2], dimensions=WIDTH, user="u")
    np.testing.assert_allclose(one.data[0].embedding, vectors[2], atol=1e-5)


def test_base64_is_little_endian_float32(http: httpx.Client, served: ServedLrem) -> None:
    body = {"model": "lrem", "input": QUERIES[0], "encoding_format": "base64"}
    encoded = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(encoded), "<f4"), expected(served)[0][0], atol=1e-5)


def test_items_are_embedded_as_the_catalogue_is(client: openai.OpenAI, served: ServedLrem) -> None:
    lines = served.lines(served.catalog)
    extra = {"input_type": "item", "return_keywords": True}
    answer = client.embeddings.create(model="lrem", input=lines[5:8], extra_body=extra)
    vectors = [one.embedding for one in answer.data]
    np.testing.assert_allclose(vectors, served.checkpoint.item_embeddings[5:8], atol=1e-5)
    assert [one.keywords for one in answer.data] == [""] * 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens


def test_search_finds_the_nearest_items(http: httpx.Client, served: ServedLrem) -> None:
    vectors, keywords = expected(served)
    scores = vectors @ served.checkpoint.item_embeddings.T
    answer = search(http, query=QUERIES, k=6, return_keywords=True)
    assert (answer["model"], answer["catalog"]) == ("lrem", served.catalog.fingerprint)
    for row, (found, own) in enumerate(zip(answer["data"], scores, strict=True)):
        best = np.argsort(-own, kind="stable")[:6]
        assert [item["item_id"] for item in found["items"]] == [served.catalog.item_ids[item] for item in best]
        assert [item["title"] for item in found["items"]] == [served.catalog.titles[item] for item in best]
        assert [item["score"] for item in found["items"]] == pytest.approx(own[best].tolist(), abs=1e-5)
        assert found["keywords"] == keywords[row]
    (alone,) = search(http, query=QUERIES[1])["data"]
    assert len(alone["items"]) == 10
    assert alone.keys() == {"items", "truncated"}
    first = [item["item_id"] for item in alone["items"]]
    (rest,) = search(http, query=QUERIES[1], exclude=first[:4], k=6, model="lrem")["data"]
    assert [item["item_id"] for item in rest["items"]] == first[4:]


@pytest.mark.parametrize("blank", ["", " ", "\n\t \N{NO-BREAK SPACE}"])
def test_blank_texts_are_refused_by_name(http: httpx.Client, blank: str) -> None:
    for route, field in (("/v1/search", "query"), ("/v1/embeddings", "input")):
        for value, name in ((blank, field), ([blank], field), (["a", blank], f"{field}.1")):
            error = error_of(http.post(route, json={"model": "lrem", field: value}), 400)
            assert (error["param"], error["code"]) == (name, "empty_text")
            assert error["message"].startswith(f"{name} is empty")


@pytest.mark.parametrize(
    ("route", "change", "param"),
    [
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 6}, "input"),
        ("/v1/embeddings", {"input": [1, 2]}, "input"),
        ("/v1/embeddings", {"input": [[1, 2], [3]]}, "input"),
        ("/v1/embeddings", {"input": ["a", 1]}, "input"),
        ("/v1/embeddings", {"input": None}, "input"),
        ("/v1/embeddings", {"dimensions": WIDTH - 1}, "dimensions"),
        ("/v1/embeddings", {"encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input_type": "document"}, "input_type"),
        ("/v1/embeddings", {"keywords": True}, "keywords"),
        ("/v1/search", {"query": []}, "query"),
        ("/v1/search", {"query": ["a"] * 6}, "query"),
        ("/v1/search", {"query": [1]}, "query"),
        ("/v1/search", {"k": 0}, "k"),
        ("/v1/search", {"k": 21}, "k"),
        ("/v1/search", {"k": True}, "k"),
        ("/v1/search", {"exclude": ["7", "none"]}, "exclude"),
        ("/v1/search", {"num_beams": 5}, "num_beams"),
    ],
)
def test_what_is_wrong_is_refused_by_name(http: httpx.Client, route: str, change: dict[str, Any], param: str) -> None:
    good = {"model": "lrem", "input": "a"} if route == "/v1/embeddings" else {"query": "a"}
    assert error_of(http.post(route, json=good | change), 422)["param"] == param
    assert error_of(http.post(route, json=good | {"model": "other"}), 404)["code"] == "model_not_found"


def test_long_texts_are_cut_and_say_so(http: httpx.Client, served: ServedLrem) -> None:
    assert len(LONG) == 10_000
    limit = served.prompts.max_text_tokens
    kept = served.prompts.vocabulary.encode_text(LONG)[:limit]
    head = served.tokenizer.decode(kept)
    assert served.prompts.query(head) == served.prompts.query(LONG.strip())
    body = {"model": "lrem", "input": [LONG, head, " " * 9000 + "a", "a" + " " * 9000 + "a"]}
    answer = http.post("/v1/embeddings", json=body).json()
    long, short, padded, apart = answer["data"]
    assert [one["truncated"] for one in answer["data"]] == [True, False, False, False]
    np.testing.assert_allclose(long["embedding"], short["embedding"], atol=1e-5)
    of = {
        text: http.post("/v1/embeddings", json={"model": "lrem", "input": text}).json()["data"][0]
        for text in ("a", "a a")
    }
    np.testing.assert_allclose(padded["embedding"], of["a"]["embedding"], atol=1e-5)
    np.testing.assert_allclose(apart["embedding"], of["a a"]["embedding"], atol=1e-5)
    assert [one["truncated"] for one in search(http, query=["\N{SLEUTH OR SPY}" * 95, "b"])["data"]] == [True, False]


SPELLED = [
    "<emb>",
    "film <think>sea</think><emb>",
    "<a_12>",
    "<|endoftext|> and <|pad|>",
    "<emb>" * 10,
    "</think>",
]


@pytest.mark.parametrize("text", SPELLED)
def test_text_that_spells_a_token_is_text(served: ServedLrem, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What the engine is asked and what the model embeds hold no control tokens but ours, in their places."""
    asked: list[EmbedRequest] = []
    embedded: list[list[int]] = []
    ask = LremEngine.embed

    async def spied(engine: LremEngine, request: EmbedRequest) -> Embedded:
        asked.append(request)
        return await ask(engine, request)

    def spied_sequences(model: Any, sequences: list[list[int]], batch_size: int) -> np.ndarray:
        embedded.extend(sequences)
        return embed_sequences(model, sequences, batch_size)

    with running(served) as http:
        monkeypatch.setattr(LremEngine, "embed", spied)
        monkeypatch.setattr("llmrec.serving.engines.lrem_engine.embed_sequences", spied_sequences)
        for kind in ("query", "item"):
            body = {"model": "lrem", "input": text, "input_type": kind}
            answer = http.post("/v1/embeddings", json=body)
            assert answer.status_code == 200
    controls = set(served.prompts.end_token_ids)
    query, item = asked
    assert not controls & set(query.prompt)
    assert text in served.tokenizer.decode(query.prompt)
    assert [token for token in item.prompt if token in controls] == [served.prompts.tokens.embed]
    assert item.prompt[-1] == served.prompts.tokens.embed
    assert [token for token in embedded[0] if token in controls] == list(served.prompts.tokens)
    assert embedded[1] == list(item.prompt)


def test_a_query_of_nothing_but_control_tokens_spelled_many_times(http: httpx.Client) -> None:
    (found,) = search(http, query="<emb>" * 2000, k=3)["data"]
    assert len(found["items"]) == 3
    assert found["truncated"]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/recommendations", {"users": [{"history": ["1"]}]}),
        ("/v1/completions", {"model": "lrem", "prompt": "a"}),
        ("/v1/chat/completions", {"model": "lrem", "messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_other_routes_say_where_to_ask(http: httpx.Client, route: str, body: dict[str, Any]) -> None:
    error = error_of(http.post(route, json=body), 422)
    assert "/v1/search" in error["message"]
    assert error["code"] == "search_only"
    assert route not in http.get("/openapi.json").json()["paths"]


def test_what_it_shares_with_other_servers(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/v1/items/7").json()["title"] == "Film 7 of the sea"
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["lrem"]
    before = _metrics(http)
    search(http, query=QUERIES)
    http.post("/v1/embeddings", json={"model": "lrem", "input": "a"})
    after = _metrics(http)
    assert after["llmrec_lists_total"] - before["llmrec_lists_total"] == 4
    assert after["llmrec_embeddings_total"] - before["llmrec_embeddings_total"] == 1
    assert after["llmrec_queue_lists"] == after["llmrec_invalid_beams_total"] == 0
    assert after['llmrec_tokens_total{kind="completion"}'] > before['llmrec_tokens_total{kind="completion"}']
    error_of(http.get("/"), 404)


def _metrics(http: httpx.Client) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_keys_queue_and_body_hold_for_its_routes(served: ServedLrem) -> None:
    with running(served, api_keys=("key",), max_queue=2, max_body_bytes=5000) as http:
        for route, body in (("/v1/search", {"query": "a"}), ("/v1/embeddings", {"model": "lrem", "input": "a"})):
            error_of(http.post(route, json=body), 401)
            http.headers["Authorization"] = "Bearer key"
            assert http.post(route, json=body).status_code == 200
            name = "query" if "query" in body else "input"
            assert "the limit is 2" in error_of(http.post(route, json=body | {name: ["a"] * 3}), 422)["message"]
            error_of(http.post(route, json=body | {name: "a" * 6000}), 413)
            del http.headers["Authorization"]


def test_a_catalogue_is_changed_while_it_is_served(http: httpx.Client, served: ServedLrem, tmp_path: Path) -> None:
    own = [item["item_id"] for item in search(http, query="Ships", k=20)["data"][0]["items"]]
    rows = plain_catalog().items.to_pylist()
    # the ids and titles stay, and what is read of an item besides does not
    rebranded = [rows[0] | {"brand": "Sea ships of the drama"}, *rows[1:]]
    new = rows[0] | {"item_id": "new", "title": "Ships"}

    def reload(name: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        Catalog(pa.Table.from_pylist(items, ITEMS), np.empty((len(items), 0)), ()).save(tmp_path / name)
        answer = http.post("/v1/catalog/reload", json={"folder": str(tmp_path / name)}, headers=ADMIN)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def score_of(item_id: str) -> float:
        others = [row["item_id"] for row in rows if row["item_id"] != item_id]
        return search(http, query="Ships", exclude=others, k=1)["data"][0]["items"][0]["score"]

    before = score_of("0")
    assert reload("rebranded", rebranded)["added"] == 0
    assert abs(score_of("0") - before) > 1e-4
    assert reload("more", [*rows, new])["added"] == 1
    line = served.prompts.lines(pa.Table.from_pylist([new], ITEMS))
    vector = LremSearcher(served.prompts, line, 1).embed_items(served.load_model())[0]
    body = {"model": "lrem", "input": "Ships"}
    query = np.array(http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"])
    assert score_of("new") == pytest.approx(float(query @ vector), abs=1e-5)
    nameless = [rows[0] | {"title": "", "categories": []}]
    Catalog(pa.Table.from_pylist(nameless, ITEMS), np.empty((1, 0)), ()).save(tmp_path / "nameless")
    refused = http.post("/v1/catalog/reload", json={"folder": str(tmp_path / "nameless")}, headers=ADMIN)
    assert "Item '0' has no title" in error_of(refused, 422)["message"]
    assert http.get("/v1/catalog").json()["num_items"] == NUM_ITEMS + 1
    assert reload("own", rows)["removed"] == 1
    assert [item["item_id"] for item in search(http, query="Ships", k=20)["data"][0]["items"]] == own


def test_histories_are_not_for_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="llmrec serve"):
        recommend_file(str(folder), tmp_path / "h.parquet", tmp_path / "out.parquet", RecommendOptions())


@pytest.mark.slow
def test_llmrec_serve_answers_openais_client(serve: Callable[..., Any], folder: Path, served: ServedLrem) -> None:
    server = serve(folder, "--index", "approximate", env={"LLMREC_API_KEYS": "key"})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        answer = client.embeddings.create(model="lrem", input=QUERIES)
        np.testing.assert_allclose([one.embedding for one in answer.data], expected(served)[0], atol=1e-5)
        found = client.post("/search", body={"query": "sea", "k": 3}, cast_to=object)
        assert len(found["data"][0]["items"]) == 3
        with pytest.raises(openai.BadRequestError, match="input is empty"):
            client.embeddings.create(model="lrem", input="")
        with pytest.raises(openai.UnprocessableEntityError, match="/v1/search"):
            client.completions.create(model="lrem", prompt="a")
