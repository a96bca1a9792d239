"""The catalogue is swapped while requests run: none fails, none sees two."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pyarrow as pa
import pytest

from llmrec.catalog import Catalog
from llmrec.serving.http.catalogs import code_text
from tests.serving.running import ToldEngine, error_of, running, wait_until

ADMIN = {"Authorization": "Bearer boss"}
ROUTE = "/v1/recommendations"


def extended(catalog, item_ids, drop=0):
    """``catalog`` without its first ``drop`` items, and with new ones of unused semantic IDs."""
    used = set(map(tuple, catalog.semantic_ids.tolist()))
    free = [codes for codes in np.ndindex(catalog.codebook_sizes) if codes not in used]
    new = catalog.items.slice(0, len(item_ids)).to_pydict()
    new |= {"item_id": item_ids, "title": [f"New film {item_id}" for item_id in item_ids]}
    items = pa.concat_tables([catalog.items.slice(drop), pa.table(new, catalog.items.schema)])
    ids = np.concatenate([catalog.semantic_ids[drop:], np.array(free[: len(item_ids)]).reshape(-1, 3)])
    return Catalog(items, ids, catalog.codebook_sizes)


@pytest.fixture(scope="module")
def larger(catalog):
    return extended(catalog, ["n1", "n2", "n3"], drop=2)


@pytest.fixture(scope="module")
def larger_folder(larger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger")
    larger.save(folder)
    return str(folder)


@pytest.fixture
def http(checkpoint):
    with running(checkpoint, admin_key="boss") as client:
        client.headers.update(ADMIN)
        yield client


def test_new_items_are_recommendable_at_once_and_a_rollback_takes_them_back(http, catalog, larger, larger_folder):
    body = {"users": [{"history": ["5"]}], "k": 60, "num_beams": 61, "exclude_seen": False}
    answer = http.post("/v1/catalog/reload", json={"folder": larger_folder}).json()
    assert (answer["catalog"], answer["previous"]) == (larger.fingerprint, catalog.fingerprint)
    assert (answer["added"], answer["removed"], answer["num_items"]) == (3, 2, 61)
    listed = http.post(ROUTE, json=body | {"k": 61}).json()
    assert listed["catalog"] == larger.fingerprint
    assert sorted(item["item_id"] for item in listed["data"][0]["items"]) == sorted(larger.item_ids)
    assert http.post(ROUTE, json={"users": [{"history": ["n1"]}], "allow": ["n2"]}).status_code == 200
    assert http.get("/v1/items", params={"search": "new film"}).json()["data"][0]["item_id"] == "n1"
    prompt = code_text(larger.semantic_ids[-1])
    chosen = http.post("/v1/completions", json={"model": "tiny", "prompt": prompt, "allow": ["n3"]}).json()
    assert chosen["choices"][0]["item_id"] == "n3"
    assert chosen["system_fingerprint"] == larger.fingerprint
    error_of(http.post(ROUTE, json={"users": [{"history": ["0"]}]}), 422)

    answer = http.post("/v1/catalog/rollback").json()
    assert (answer["catalog"], answer["previous"]) == (catalog.fingerprint, larger.fingerprint)
    assert (answer["added"], answer["removed"]) == (2, 3)
    error_of(http.post(ROUTE, json={"users": [{"history": ["n1"]}]}), 422)
    assert http.post("/v1/catalog/rollback").json()["catalog"] == larger.fingerprint
    # the checkpoint's own
    assert http.post("/v1/catalog/reload").json()["catalog"] == catalog.fingerprint
    again = http.post("/v1/catalog/reload").json()
    assert (again["added"], again["removed"], again["previous"]) == (0, 0, larger.fingerprint)
    assert 'llmrec_catalog_changes_total{kind="reload",outcome="ok"} 3.0' in http.get("/metrics").text


def moved(catalog):
    ids = catalog.semantic_ids.copy()
    ids[[7, 8]] = ids[[8, 7]]
    return Catalog(catalog.items, ids, catalog.codebook_sizes)


def other_codebooks(catalog):
    return Catalog(catalog.items, catalog.semantic_ids, (8, 8, 5))


@pytest.mark.parametrize(
    ("make", "told"), [(moved, "Item '7' has the semantic ID"), (other_codebooks, r"codebooks of sizes [8, 8, 5]")]
)
def test_a_catalogue_that_does_not_fit_the_model_is_refused(http, catalog, tmp_path, make, told):
    make(catalog).save(tmp_path)
    error = error_of(http.post("/v1/catalog/reload", json={"folder": str(tmp_path)}), 422)
    assert told in error["message"]
    assert "stays as it was" in error["message"]
    state = http.get("/v1/catalog").json()
    assert (state["catalog"], state["previous"]) == (catalog.fingerprint, None)


def test_folders_without_a_whole_catalogue_are_refused(http, catalog, larger, tmp_path):
    def refused(folder):
        return error_of(http.post("/v1/catalog/reload", json={"folder": str(folder)}), 422)["message"]

    assert "holds no catalog.parquet" in refused(tmp_path)
    assert refused("/no/such/folder")
    assert refused("a\0b")
    larger.save(tmp_path)
    (tmp_path / "catalog.json").write_text("{}")
    assert refused(tmp_path)
    larger.save(tmp_path)
    (tmp_path / "catalog.parquet").write_bytes(b"PAR1 and nothing else")
    assert refused(tmp_path)
    catalog.save(tmp_path / "one")
    larger.save(tmp_path / "two")
    (tmp_path / "two" / "catalog.json").write_bytes((tmp_path / "one" / "catalog.json").read_bytes())
    assert "belongs to the catalog" in refused(tmp_path / "two")
    error_of(http.post("/v1/catalog/rollback"), 422)
    assert http.get("/v1/catalog").json()["catalog"] == catalog.fingerprint
    assert http.post(ROUTE, json={"users": [{"history": ["0"]}]}).status_code == 200
    metrics = http.get("/metrics").text
    assert 'llmrec_catalog_changes_total{kind="reload",outcome="refused"} 6.0' in metrics
    assert 'llmrec_catalog_changes_total{kind="rollback",outcome="refused"} 1.0' in metrics


def test_a_catalogue_that_cannot_be_searched_never_serves(checkpoint, catalog, larger_folder):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine, admin_key="boss") as http:
        engine.answer = ValueError("no way to search")
        answer = http.post("/v1/catalog/reload", json={"folder": larger_folder}, headers=ADMIN)
        assert "no way to search" in error_of(answer, 422)["message"]
        assert http.get("/v1/catalog").json()["catalog"] == catalog.fingerprint


def test_a_request_in_flight_ends_on_the_catalogue_it_began_with(checkpoint, catalog, larger, larger_folder):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine, admin_key="boss") as http, ThreadPoolExecutor(2) as threads:
        engine.go.clear()
        engine.started = 0
        url = str(http.base_url)
        body = {"users": [{"history": ["5"]}], "k": 2}
        asked = threads.submit(httpx.post, url + ROUTE, json=body)
        wait_until(lambda: engine.started == 1)
        reload = {"url": f"{url}/v1/catalog/reload", "json": {"folder": larger_folder}, "headers": ADMIN}
        reloaded = threads.submit(lambda: httpx.post(**reload))
        wait_until(lambda: engine.started == 2)  # its trial search
        engine.go.set()
        assert reloaded.result().json()["catalog"] == larger.fingerprint
        answer = asked.result().json()
        assert answer["catalog"] == catalog.fingerprint
        assert [item["item_id"] for item in answer["data"][0]["items"]] == ["0", "1"]


def test_under_load_no_request_fails_or_mixes_two_catalogues(http, catalog, larger, larger_folder):
    catalogs = {one.fingerprint: one for one in (catalog, larger)}
    seen, problems = set(), []
    stop = threading.Event()
    url = str(http.base_url)

    def ask(_):
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(500 // 8 + 1):
                answer = client.post(ROUTE, json={"users": [{"history": ["5"]}, {"history": ["9"]}], "k": 10})
                if answer.status_code != 200:
                    problems.append(answer.text)
                    continue
                served = catalogs[answer.json()["catalog"]]
                seen.add(served.fingerprint)
                for listed in answer.json()["data"]:
                    for item in listed["items"]:
                        row = served.item_index.get(item["item_id"])
                        if row is None or served.semantic_ids[row].tolist() != item["semantic_id"]:
                            problems.append(item)

    def swap():
        for number in range(10):
            folder = {"folder": larger_folder} if number % 2 == 0 else {}
            assert http.post("/v1/catalog/reload", json=folder).status_code == 200
            stop.wait(0.05)

    with ThreadPoolExecutor(9) as threads:
        swapped = threads.submit(swap)
        list(threads.map(ask, range(8)))
        swapped.result()
    assert problems == []
    assert seen == set(catalogs)
    assert "llmrec_invalid_beams_total 0.0" in http.get("/metrics").text
