"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def llmrec_data() -> Path:
    """The folder of real datasets (``LLMREC_DATA``, or ``../shared/data`` beside the checkout); skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LLMREC_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set LLMREC_DATA to the folder that holds it")
    return folder
