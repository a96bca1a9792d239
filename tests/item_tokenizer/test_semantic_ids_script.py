"""data_prep/semantic_ids.py: every option is there, and the door opens."""

import importlib.util
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from llmrec.catalog import Catalog
from llmrec.item_tokenizer import EmbeddingConfig, ItemTokenizerConfig
from tests.item_tokenizer.test_stage import dataset  # noqa: F401 -- a fixture

SCRIPT = Path(__file__).resolve().parents[2] / "data_prep" / "semantic_ids.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("semantic_ids_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("config", [EmbeddingConfig, ItemTokenizerConfig])
def test_every_field_is_an_option_with_its_own_default(script, config):
    options = vars(script.build_parser().parse_args(["--dataset_dir", "x"]))
    assert {field.name: options[field.name] for field in fields(config)} == {
        field.name: getattr(config(), field.name) for field in fields(config)
    }


def test_makes_a_catalog_and_says_so(script, dataset, tmp_path, capsys):  # noqa: F811
    arguments = (
        f"--combine collaborative --num_codebooks 2 --codebook_size 8 --hidden_sizes 16 8 --output_dir {tmp_path}"
    )
    for _ in range(2):
        script.main(["--dataset_dir", str(dataset.folder), *arguments.split()])
    catalog = Catalog.load(tmp_path)
    assert len(catalog) == 25
    assert capsys.readouterr().out.count(catalog.fingerprint) == 2


@pytest.mark.slow
def test_an_error_is_one_line(tmp_path):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--dataset_dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run.stderr
