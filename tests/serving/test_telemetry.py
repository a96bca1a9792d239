"""Metrics in Prometheus' form, and a log that names no user and no item."""

import json
import logging
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmrec.serving.engines.engine import RankedList
from llmrec.serving.http.access_log import JsonLines
from tests.serving.running import ToldEngine, error_of, running

ROUTE = "/v1/recommendations"


def metrics_of(http):
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {(sample.name, *sorted(sample.labels.values())): sample.value for one in families for sample in one.samples}


def test_what_is_counted(checkpoint, catalog):
    with running(checkpoint) as http:
        body = {"users": [{"history": ["1"]}, {"history": ["2", "3"]}], "k": 4}
        http.post(ROUTE, json=body)
        http.post(ROUTE, json=body | {"k": -1})
        # greedy: a drawn text may end before its third token
        text = {"model": "tiny", "prompt": "a", "constrained": False, "max_tokens": 3, "temperature": 0}
        http.post("/v1/completions", json=text)
        metrics = metrics_of(http)
        opening = len(checkpoint.tokenizer("History:\n")["input_ids"])
        assert metrics["llmrec_lists_total",] == 2
        assert metrics["llmrec_texts_total",] == 1
        assert metrics["llmrec_tokens_total", "prompt"] == 2 * opening + 3 * 3 + 1
        assert metrics["llmrec_tokens_total", "completion"] == 2 * 4 * 3 + 3
        assert metrics["llmrec_invalid_beams_total",] == 0
        assert metrics["llmrec_queue_lists",] == 0
        assert metrics["llmrec_catalog_info", catalog.fingerprint] == 1
        assert metrics["llmrec_catalog_items",] == len(catalog)
        assert metrics["llmrec_request_seconds_count", ROUTE, "200"] == 1
        assert metrics["llmrec_request_seconds_count", ROUTE, "422"] == 1


def test_two_servers_count_apart(checkpoint):
    with running(checkpoint, ToldEngine(checkpoint)) as one, running(checkpoint, ToldEngine(checkpoint)) as two:
        one.post(ROUTE, json={"users": [{"history": ["1"]}]})
        assert metrics_of(one)["llmrec_lists_total",] == 1
        assert metrics_of(two)["llmrec_lists_total",] == 0


def test_invalid_items_are_counted_and_never_shown(checkpoint):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine) as http:
        items = [3, 60, 5, 3, -1, 7]
        engine.answer = RankedList(items, [-float(place) for place in range(6)], [[-1.0] * 3] * 6)
        (listed,) = http.post(ROUTE, json={"users": [{"history": ["1"]}]}).json()["data"]
        assert [(item["item_id"], item["score"]) for item in listed["items"]] == [("3", 0), ("5", -2), ("7", -5)]
        assert metrics_of(http)["llmrec_invalid_beams_total",] == 3


@pytest.fixture
def log(caplog):
    """The log's lines as they are written to stderr."""
    caplog.set_level(logging.DEBUG)
    return lambda: [JsonLines().format(record) for record in caplog.records if record.name.startswith("llmrec")]


def test_the_log_has_the_request_without_what_the_user_sent(checkpoint, log):
    secrets = ["user-secret", "film-secret", "Film 3 of the sea", "prompt-secret", "key-secret"]
    with running(checkpoint) as http:
        headers = {"Authorization": "Bearer key-secret", "x-request-id": "user-secret"}
        user = {"user_id": "user-secret", "history_titles": ["Film 3 of the sea", "film-secret"]}
        body = {"users": [user], "k": 4, "num_beams": 7}
        response = http.post(ROUTE, json=body | {"unknown_items": "skip"}, headers=headers)
        assert response.status_code == 200
        http.post(ROUTE, json=body, headers=headers)
        http.post(ROUTE, json=body | {"film-secret": 1}, headers=headers)
        http.get("/v1/items/film-secret")
        http.get("/v1/items", params={"search": "film-secret"})
        http.get("/film-secret")
        free = {"model": "tiny", "prompt": "prompt-secret", "constrained": False}
        http.post("/v1/completions", json=free)
        http.post("/v1/completions", json={"model": "tiny", "prompt": "prompt-secret"})
    lines = log()
    assert not [secret for secret in secrets if secret in "".join(lines)]
    requests = [line for line in map(json.loads, lines) if line["message"] == "request"]
    assert len(requests) == 8
    first = requests[0]
    assert first | {"time": 0, "ms": 0} == {
        "time": 0,
        "level": "info",
        "logger": "llmrec.serving",
        "message": "request",
        "request_id": response.headers["x-request-id"],
        "method": "POST",
        "route": ROUTE,
        "status": 200,
        "ms": 0,
        "lists": 1,
        "k": 4,
        "beams": 7,
        "engine": "transformers",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert [line["route"] for line in requests[3:6]] == ["/v1/items/{item_id:path}", "/v1/items", "none"]
    assert [line["status"] for line in requests] == [200, 422, 422, 404, 200, 404, 200, 200]


def test_a_failure_is_a_500_with_an_id_that_the_log_has_and_no_data(checkpoint, log):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine) as http:
        engine.answer = RuntimeError("about user-secret")
        response = http.post(ROUTE, json={"users": [{"history": ["1"]}]})
        error = error_of(response, 500)
        assert error["type"] == "server_error"
        assert response.headers["x-request-id"] in error["message"]
        engine.answer = None
        assert http.post(ROUTE, json={"users": [{"history": ["1"]}]}).status_code == 200
    failed = next(line for line in log() if '"failed"' in line)
    assert "user-secret" not in failed + error["message"]
    failed = json.loads(failed)
    assert failed["request_id"] == response.headers["x-request-id"]
    assert (failed["level"], failed["error"]) == ("error", "RuntimeError")
    assert any("running.py" in where for where in failed["where"])
