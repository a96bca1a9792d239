"""A tiny checkpoint on disk, and the real server in its own process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llmrec.baselines import Fusion, ItemKNN
from llmrec.catalog import Catalog
from llmrec.hub import save_checkpoint, save_fusion
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.serving.checkpoint import ServedCheckpoint, open_served
from llmrec.vocabulary import ItemVocabulary
from tests.tiny import make_catalog

CONFIG = {
    "history_loss": "all",
    "max_history": 20,
    "num_beams": 10,
    "beam_scores": "vocabulary",
    "per_device_eval_batch_size": 8,
    "seed": 0,
}

#: Some titles spell what they must never become.
TITLES = [f"Film {number} of the sea" for number in range(57)]
TITLES += ["<a_1><b_2>", "<img src=x onerror=boom()>", "Film 0 of the sea"]


def save_tiny_checkpoint(
    folder: Path, catalog: Catalog, architecture: str = "qwen3", config: dict[str, object] | None = None
) -> Path:
    """A random model that vLLM runs too (heads of 32), with all the files of a recipe's checkpoint."""
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    small = SmallModelConfig(architecture, hidden_size=64, num_layers=2, num_heads=2, head_dim=32, intermediate_size=64)
    model = build_small_model(small, tokenizer, 0).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # a fresh model is nearly uniform: spread its scores so that rankings are stable
    item_tokenizer = folder.parent / f"{folder.name}_item_tokenizer"
    item_tokenizer.mkdir(parents=True, exist_ok=True)
    (item_tokenizer / "config.json").write_text("{}")
    config = CONFIG | (config or {})
    save_checkpoint(folder, model, tokenizer, catalog, item_tokenizer, config, {}, method="lcrec")
    return folder


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return make_catalog(60, (8, 8, 4), titles=TITLES)


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Path:
    """60 items, codebooks of 8, 8 and 4 codes; item-kNN is mixed into the search where a history is known."""
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("serving") / "tiny", catalog)
    sequences = np.random.default_rng(0).integers(0, len(catalog), (20, 6)).tolist()
    save_fusion(folder, Fusion(ItemKNN().fit(sequences, len(catalog)), 0.4))
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoint_folder: Path) -> ServedCheckpoint:
    return open_served(str(checkpoint_folder))


@dataclass
class Server:
    """A server process.

    Attributes:
        url: without a slash at the end.
        process: for signals.
        log: path of what it wrote to stderr.
    """

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def get(self, path: str, key: str | None = None) -> dict:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """``serve(checkpoint, *options, env={...})`` starts ``llmrec serve`` on a free port and waits until it is up."""
    servers: list[Server] = []

    def start(checkpoint: Path, *options: str, env: dict[str, str] | None = None, wait: float = 120) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = tmp_path_factory.mktemp("server") / "stderr.log"
        command = [sys.executable, "-m", "llmrec.cli", "serve", str(checkpoint), "--port", str(port), *options]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=stderr, stderr=stderr, env=os.environ | (env or {}))
        server = Server(f"http://127.0.0.1:{port}", process, log)
        servers.append(server)
        deadline = time.monotonic() + wait
        while True:
            try:
                with urllib.request.urlopen(f"{server.url}/health", timeout=5):
                    return server
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}") from None
                time.sleep(0.2)

    yield start
    for server in servers:
        server.process.terminate()
    for server in servers:
        try:
            server.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.process.kill()
