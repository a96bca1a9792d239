"""Hostile and oversized requests are refused by name of the limit, and the server keeps serving."""

import json
import socket
import threading

import httpx
import pytest

from tests.serving.running import ToldEngine, error_of, running, wait_until

ROUTE = "/v1/recommendations"
GOOD = {"users": [{"history": ["1"]}], "k": 2}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module", params=["httptools", "h11"])
def http(request, checkpoint):
    pytest.importorskip(request.param)
    limits = {"max_body_bytes": 200_000, "max_history_items": 50, "max_users_per_request": 5, "max_prompt_tokens": 300}
    with running(checkpoint, ToldEngine(checkpoint), request.param, max_k=20, max_num_beams=30, **limits) as client:
        yield client


@pytest.fixture(autouse=True)
def still_serving(http):
    yield
    assert http.post(ROUTE, json=GOOD).status_code == 200


@pytest.mark.parametrize("path", [ROUTE, "/v1/completions", "/health", "/no/such/route"])
def test_a_body_of_ten_megabytes_gets_413_announced_or_not(http, path):
    body = json.dumps({"users": [{"history": ["1"] * 2_000_000}]}).encode()
    assert len(body) > 10_000_000
    error = error_of(http.post(path, content=body, headers=JSON), 413)
    assert "200000 bytes" in error["message"]
    pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
    error_of(http.post(path, content=pieces, headers=JSON), 413)
    just = body[:200_000]
    assert http.post(path, content=just, headers=JSON).status_code != 413


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": -1}, "greater than or equal to 1"),
        ({"k": True}, "valid integer"),
        ({"k": "5"}, "valid integer"),
        ({"k": 5.5}, "valid integer"),
        ({"k": 10**30}, "less than or equal"),
        ({"k": 21}, "the limit is 20"),
        ({"num_beams": 31}, "the limit is 30"),
        ({"num_beams": 1}, "at most as long as the search is wide"),
        ({"users": []}, "at least 1 item"),
        ({"users": [{"history": ["1"]}] * 6}, "the limit is 5"),
        ({"users": [{"history": ["1"] * 51}]}, "the limit is 50"),
        ({"users": [{"history_titles": ["Film 1 of the sea"] * 51}]}, "the limit is 50"),
        ({"users": [{"history": [1]}]}, "valid string"),
        ({"users": {"history": ["1"]}}, "valid list"),
        ({"users": [["1"]]}, "valid dictionary"),
        ({"users": [{"history": "1"}]}, "valid list"),
        ({"users": [{"history": ["1"], "k": 3}]}, "Extra inputs"),
        ({"exclude_seen": 1}, "valid boolean"),
        ({"exclude": None}, "valid list"),
        ({"allow": []}, "nothing could be returned"),
        ({"require_prefix": [-1]}, "greater than or equal to 0"),
        ({"require_prefix": [2**63]}, "less than or equal"),
        ({"require_prefix": [0, 0, 0, 0]}, "1 to 3 codes"),
        ({"forbid_prefixes": [[]]}, "1 to 3 codes"),
        ({"forbid_prefixes": [[0]] * 1001}, "at most 1000"),
        ({"max_per_first_code": 0}, "greater than or equal to 1"),
        ({"unknown_items": "maybe"}, "'refuse' or 'skip'"),
        ({"x" * 10_000: 1}, "Extra inputs"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(http, change, told):
    error = error_of(http.post(ROUTE, content=json.dumps(GOOD | change), headers=JSON), 422)
    assert told in error["message"]
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["k", "temperature", "presence_penalty", "logprobs", "seed"])
def test_numbers_that_are_none(http, number, field):
    path = ROUTE if field == "k" else "/v1/completions"
    rest = '"users": [{"history": ["1"]}]' if field == "k" else '"model": "tiny", "prompt": "a"'
    error_of(http.post(path, content=f'{{{rest}, "{field}": {number}}}', headers=JSON), 422)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b"\x1f\x8b\x08\x00gzip?",
        b'{"users": [{"history": ["1"]}], "k": ' + b"9" * 5000 + b"}",
        b"[" * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
        b'{"users":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"users": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"users": [{"history": ["1"]}], "k": 1} trailing',
        b'{"users": [{"user_id": "\\ud800", "history": ["1"]}], "model": "tiny", "prompt": "a", "messages": []}',
        b'{"users": [{"history_titles": ["\\udfff"]}], "model": "tiny", "prompt": "\\udfff", "messages": []}',
        b'{"\\ud800": 1}',
    ],
)
def test_bodies_that_are_no_json_or_nested_deeply(http, content):
    for path in (ROUTE, "/v1/completions", "/v1/chat/completions"):
        response = http.post(path, content=content, headers=JSON)
        assert response.status_code in (400, 422)
        error_of(response, response.status_code)


def test_a_body_that_is_not_declared_as_json(http):
    error_of(http.post(ROUTE, content=json.dumps(GOOD), headers={"content-type": "text/plain"}), 422)
    error_of(http.post(ROUTE, data={"users": "1"}), 422)


def test_prompts_have_a_limit(http):
    body = {"model": "tiny", "prompt": "<a_1>" * 301}
    assert "has 301 tokens; the limit is 300" in error_of(http.post("/v1/completions", json=body), 422)["message"]
    assert http.post("/v1/completions", json=body | {"prompt": "<a_1>" * 300}).status_code == 200
    error = error_of(http.post("/v1/completions", json=body | {"prompt": ["a"] * 6}), 422)
    assert "1 to 5 are allowed" in error["message"]


def test_unknown_routes_and_methods_have_openais_shape(http):
    assert error_of(http.get("/nothing"), 404)["type"] == "not_found_error"
    response = http.get(ROUTE)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"
    error_of(http.post(f"{ROUTE}/", json=GOOD), 404)
    error_of(http.delete("/v1/models"), 405)


def test_bytes_that_are_no_http(http):
    for text in (b"\x00" * 500, b"GET\r\n\r\n", b"POST /v1/items HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
        with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as raw:
            raw.sendall(text)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(1000)[:12] in (b"HTTP/1.1 400", b"")


def test_a_client_that_goes_away_inside_its_body(http):
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as raw:
        raw.sendall(b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")


def test_a_full_queue_says_when_to_come_back(checkpoint):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine, max_queue=4) as http:
        error = error_of(http.post(ROUTE, json={"users": [{"history": ["1"]}] * 5}), 422)
        assert "the limit is 4" in error["message"]
        engine.go.clear()
        engine.started = 0
        answers = []

        def ask(count):
            answers.append(httpx.post(f"{http.base_url}{ROUTE}", json={"users": [{"history": ["1"]}] * count}))

        first = threading.Thread(target=ask, args=(3,))
        first.start()
        wait_until(lambda: engine.started == 3)
        assert "llmrec_queue_lists 3.0" in http.get("/metrics").text
        refused = http.post(ROUTE, json={"users": [{"history": ["1"]}] * 2})
        error = error_of(refused, 429)
        assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
        assert "the limit is 4" in error["message"]
        assert refused.headers["retry-after"] == "1"
        text = {"model": "tiny", "prompt": ["a", "b"], "constrained": False, "stream": True}
        error_of(http.post("/v1/completions", json=text), 429)
        last = threading.Thread(target=ask, args=(1,))
        last.start()
        engine.go.set()
        first.join()
        last.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert "llmrec_queue_lists 0.0" in http.get("/metrics").text


def test_work_for_clients_that_have_gone_stops(checkpoint):
    engine = ToldEngine(checkpoint)
    text = {"model": "tiny", "prompt": "a", "constrained": False, "max_tokens": 1000}
    bodies = [(ROUTE, GOOD), ("/v1/completions", text), ("/v1/completions", text | {"stream": True})]
    with running(checkpoint, engine) as http:
        for path, body in bodies:
            engine.go.clear()
            engine.started = engine.cancelled = 0
            with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as raw:
                content = json.dumps(body).encode()
                head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                raw.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
                wait_until(lambda: engine.started == 1)
            wait_until(lambda: engine.cancelled == 1)
            wait_until(lambda: "llmrec_queue_lists 0.0" in http.get("/metrics").text)
        engine.go.set()
        # in the middle of a stream
        with http.stream("POST", "/v1/completions", json=text | {"stream": True}) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            engine.go.clear()
            engine.cancelled = 0
        wait_until(lambda: engine.cancelled == 1 or "llmrec_queue_lists 0.0" in http.get("/metrics").text)
        engine.go.set()
        assert http.post(ROUTE, json=GOOD).status_code == 200
