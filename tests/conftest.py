"""Fixtures that several rooms share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# tests that run side by side share the cores
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def llmrec_data() -> Path:
    """The folder of real datasets (``LLMREC_DATA``, or ``../shared/data`` beside the checkout); skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LLMREC_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set LLMREC_DATA to the folder that holds it")
    return folder


@pytest.fixture
def hub_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings under which huggingface_hub talks to a local stand-in, running as a second process."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("hub_server.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        yield {
            "HF_ENDPOINT": server.stdout.readline().strip(),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_local",
            "HF_HOME": str(tmp_path / "hf_home"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
    finally:
        server.terminate()
        server.wait(timeout=10)
        server.stdout.close()
