"""What README.md and docs/serving.md show is run as written, but for the port, on a server of tiny size."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmrec.catalog import Catalog
from tests.serving.conftest import save_tiny_checkpoint
from tests.serving.tiny_lrem import WIDTH, save_tiny_lrem
from tests.tiny import random_semantic_ids

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "serving.md")
WRITTEN_URL = "http://127.0.0.1:8000"

pytestmark = pytest.mark.slow


def films(number):
    """A catalogue whose ids and titles are those that the pages ask for."""
    titles = [f"Film {row}" for row in range(number)]
    titles[50], titles[172], titles[181] = "Star Wars (1977)", "Empire Strikes Back, The (1980)", "Return of the Jedi"
    columns = {"item_id": [str(row) for row in range(number)], "title": titles}
    blank = {"description": [""] * number, "brand": [""] * number, "categories": [[]] * number}
    ids = random_semantic_ids(210, (16, 16, 4))
    return Catalog(pa.table(columns | blank), ids[:number], (16, 16, 4))


@pytest.fixture(scope="module")
def server(serve, tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("outputs") / "demo", films(200))
    return serve(folder, "--engine", "transformers", env={"LLMREC_ADMIN_KEY": "admin"})


def blocks(language):
    for page in PAGES:
        yield from re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


ALL_SNIPPETS = [block for block in blocks("python") if "OpenAI(" in block]
ALL_CURLS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("curl ")]
EMBEDDING_SNIPPETS = [block for block in ALL_SNIPPETS if "embeddings" in block]
SEARCH_CURLS = [line for line in ALL_CURLS if "/v1/search" in line]
SNIPPETS = [block for block in ALL_SNIPPETS if block not in EMBEDDING_SNIPPETS]
CURLS = [line for line in ALL_CURLS if line not in SEARCH_CURLS]


@pytest.fixture(scope="module")
def search_server(serve, tmp_path_factory):
    return serve(save_tiny_lrem(tmp_path_factory.mktemp("outputs") / "lrem"))


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_openai_snippets_print_ten_titles(server, snippet):
    assert WRITTEN_URL in snippet
    script = snippet.replace(WRITTEN_URL, server.url)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    titles = dict(zip(films(200).item_ids, films(200).titles, strict=True))
    shown = [line.split(" ", 1) for line in lines]
    assert len({item_id for item_id, _ in shown}) == 10
    assert all(text.startswith(titles[item_id]) for item_id, text in shown)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", CURLS)
def test_the_curl_commands_work(server, command, tmp_path):
    films(210).save(tmp_path / "new_catalog")
    ran = command.replace(WRITTEN_URL, server.url).replace("outputs/new_catalog", str(tmp_path / "new_catalog"))
    ran = ran.replace("$LLMREC_ADMIN_KEY", "admin")
    result = subprocess.run([*shlex.split(ran), "-sS", "--fail-with-body"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    answer = json.loads(result.stdout)
    if "recommendations" in command:
        items = [item["item_id"] for item in answer["data"][0]["items"]]
        assert len(set(items)) == 5
        assert not {"50", "172"} & set(items)
    else:
        assert server.get("/v1/catalog")["catalog"] == films(210).fingerprint


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", SEARCH_CURLS)
def test_the_search_commands_work(search_server, command):
    ran = shlex.split(command.replace(WRITTEN_URL, search_server.url))
    result = subprocess.run([*ran, "-sS", "--fail-with-body"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (found,) = json.loads(result.stdout)["data"]
    assert len(found["items"]) == 5
    assert "keywords" in found


@pytest.mark.parametrize("snippet", EMBEDDING_SNIPPETS)
def test_the_embedding_snippets_print_what_was_embedded(search_server, snippet):
    script = snippet.replace(WRITTEN_URL, search_server.url)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"{WIDTH} ") == 2


def test_pages_show_both(server):  # noqa: ARG001
    assert len(SNIPPETS) == 2
    assert len(CURLS) == 2
    assert len(EMBEDDING_SNIPPETS) == len(SEARCH_CURLS) == 1
    assert np.array_equal(films(210).semantic_ids[:200], films(200).semantic_ids)
