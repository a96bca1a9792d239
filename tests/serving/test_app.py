"""The page's files, the OpenAPI document, and the server process from start to SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import httpx
import pytest

from tests.serving.running import ToldEngine, error_of, running

SERVER = """
import sys, time
from llmrec.serving.checkpoint import EngineOptions, make_engine, open_served
from llmrec.serving.http.server import run_server
from llmrec.serving.http.settings import ServerSettings

checkpoint = open_served(sys.argv[1])
engine = make_engine("transformers", checkpoint, EngineOptions(device="cpu"))
rank = engine.rank

async def slow(loaded, request):
    import asyncio
    if request.k == 3:
        await asyncio.sleep(1.5)
    return await rank(loaded, request)

engine.rank = slow
run_server(checkpoint, engine, ServerSettings(host=sys.argv[2], port=int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def http(checkpoint):
    with running(checkpoint, ToldEngine(checkpoint)) as client:
        yield client


def test_the_page_and_its_files(http):
    index = http.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.text == (files("llmrec.serving.http") / "page" / "index.html").read_text()
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        response = http.get(f"/page/{name}")
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["x-content-type-options"] == "nosniff"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
    for name in ("nothing.js", "..%2fapp.py", "../app.py", "%2e%2e/app.py", ""):
        error_of(http.get(f"/page/{name}"), 404)


def test_health_tells_of_an_engine_that_stopped(checkpoint):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine) as client:
        assert client.get("/health").json() == {"status": "ok"}
        engine.alive = False
        error_of(client.get("/health"), 503)


def test_the_openapi_document(http):
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/recommendations",
        "/v1/items",
        "/v1/items/{item_id}",
        "/v1/catalog",
        "/v1/catalog/reload",
        "/v1/catalog/rollback",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/metrics",
        "/health",
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert {"400", "413"} <= operation["responses"].keys()
            assert "security" not in operation
            assert operation["responses"]["413"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")
    for page in ("/docs", "/redoc"):
        error_of(http.get(page), 404)


@pytest.fixture
def start(checkpoint_folder, tmp_path):
    processes = []

    def begin(host="127.0.0.1"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = tmp_path / f"{port}.log"
        with log.open("wb") as stderr:
            command = [sys.executable, "-c", SERVER, str(checkpoint_folder), host, str(port)]
            process = subprocess.Popen(command, stderr=stderr, env=os.environ | {"OMP_NUM_THREADS": "1"})
        processes.append(process)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/health")
                return process, url, log
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight(start):
    process, url, log = start()
    body = {"users": [{"user_id": "secret", "history": ["1"]}], "k": 3}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, f"{url}/v1/recommendations", json=body, timeout=30)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
        assert len(asked.result().json()["data"][0]["items"]) == 3
    assert process.wait(timeout=20) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line["lists"] for line in lines if line.get("route") == "/v1/recommendations"] == [1]
    assert any(line["message"] == "catalogue served" and line["num_items"] == 60 for line in lines)
    assert "secret" not in log.read_text()
    assert not [line for line in lines if line["level"] != "info"]


@pytest.mark.slow
def test_an_address_that_others_reach_without_keys_is_warned_of(start):
    process, _, log = start("0.0.0.0")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    warnings = [json.loads(line) for line in log.read_text().splitlines() if '"warning"' in line]
    assert ["0.0.0.0" in line["message"] and "LLMREC_API_KEYS" in line["message"] for line in warnings] == [True]
