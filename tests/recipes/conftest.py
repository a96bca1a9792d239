"""A small dataset with a rule to learn, prepared as a user's own would be, and the recipe as a module."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from llmrec.dataset import PreparationConfig, RawData, prepare_dataset
from llmrec.schema import INTERACTIONS, ITEMS

ROOT = Path(__file__).resolve().parents[2]
NUM_ITEMS = 40

#: Options that make a run of the recipe tiny; they change sizes only.
TINY = [
    *("--hidden_size", "32", "--num_layers", "1", "--num_codebooks", "2", "--codebook_size", "8"),
    *(
        "--item_embedding",
        "collaborative",
        "--num_beams",
        "20",
        "--max_history",
        "10",
        "--per_device_train_batch_size",
        "8",
    ),
    *("--disable_tqdm", "True"),
]


@pytest.fixture(scope="session")
def ring_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk around a ring of items: the next item is always the neighbour of the last."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        start, length = rng.integers(NUM_ITEMS), rng.integers(8, 20)
        rows += [(f"u{user}", str((start + step) % NUM_ITEMS), int(step), None, None) for step in range(length)]
    interactions = pa.table(dict(zip(INTERACTIONS.names, zip(*rows, strict=True), strict=True)), schema=INTERACTIONS)
    items = pa.table(
        {
            "item_id": [str(item) for item in range(NUM_ITEMS)],
            "title": [f"Stop {item} of the ring" for item in range(NUM_ITEMS)],
            "description": [""] * NUM_ITEMS,
            "brand": [""] * NUM_ITEMS,
            "categories": [["Stop"]] * NUM_ITEMS,
        },
        schema=ITEMS,
    )
    folder = tmp_path_factory.mktemp("data") / "ring"
    prepare_dataset(RawData("ring", interactions, items, "made by a test"), folder, PreparationConfig(k_core=1))
    return folder


@pytest.fixture(scope="session")
def lcrec() -> ModuleType:
    """recipes/lcrec.py as a module."""
    return load_recipe("lcrec")


def load_recipe(name: str) -> ModuleType:
    """A script of recipes/ as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
