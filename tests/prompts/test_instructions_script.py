"""The door: what it prints, what it refuses, and that a second run does nothing."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.dataset import PreparationConfig, RawData, prepare_dataset, read_sequences
from llmrec.schema import INTERACTIONS
from tests.prompts.chat_server import chat_server
from tests.prompts.conftest import make_items

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("instructions_script", ROOT / "data_prep" / "instructions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """A prepared folder of 5 users who walk along 12 titles, 6 each."""
    rows = [
        (f"u{user}", str(user + step), step, None, f"Nice {user + step}.") for user in range(5) for step in range(6)
    ]
    interactions = pa.table(dict(zip(INTERACTIONS.names, zip(*rows, strict=True), strict=True)), schema=INTERACTIONS)
    raw = RawData("walk", interactions, make_items({str(item): f"Stop {item}" for item in range(12)}), "made by a test")
    prepare_dataset(raw, tmp_path / "walk", PreparationConfig(k_core=1))
    return tmp_path / "walk"


def test_it_makes_the_tables_shows_examples_and_does_nothing_twice(
    script: ModuleType, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["--dataset_dir", str(dataset_dir), "--fusion_samples", "7", "--show", "2"])
    printed = capsys.readouterr().out
    assert "seqrec.parquet: 15 examples" in printed
    assert "fusionseqrec.parquet: 7 examples" in printed
    assert "itemsearch.parquet: 5 examples, written by deterministic" in printed
    assert "[Stop 0]" in printed
    assert printed.count("\n--- ") == 12
    searches = pq.read_table(dataset_dir / "instructions" / "itemsearch.parquet").to_pylist()
    assert all(f"Nice {user + 3}." in str(row["user_intention"]) for user, row in enumerate(searches))  # last but two
    stamps = {path: path.stat().st_mtime_ns for path in (dataset_dir / "instructions").iterdir()}
    script.main(["--dataset_dir", str(dataset_dir), "--fusion_samples", "7"])
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_language_model_writes_through_the_door(
    script: ModuleType, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "written"
    with chat_server() as server:
        options = ["--dataset_dir", str(dataset_dir), "--output_dir", str(output), "--tasks", "preferenceobtain"]
        script.main([*options, "--writer_base_url", server.base_url, "--writer_model", "tiny"])
    assert "5 examples, written by openai:tiny" in capsys.readouterr().out
    assert len((output / "writer_answers.jsonl").read_text().splitlines()) == len(server.bodies) == 5


def test_half_a_writer_and_a_folder_that_is_no_dataset_are_refused(
    script: ModuleType, dataset_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="go together"):
        script.main(["--dataset_dir", str(dataset_dir), "--writer_model", "tiny"])
    with pytest.raises(FileNotFoundError, match="not a prepared dataset"):
        script.main(["--dataset_dir", str(tmp_path)])


def test_help_teaches(script: ModuleType) -> None:
    text = script.build_parser().format_help()
    assert "python data_prep/instructions.py --dataset_dir data/ml-100k" in text
    assert "(default: 42)" in text


@pytest.mark.slow
def test_beautys_prefixes_are_counted(
    script: ModuleType, llmrec_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_dataset(read_sequences(llmrec_data / "amazon2014_beauty"), tmp_path / "beauty", PreparationConfig())
    script.main(["--dataset_dir", str(tmp_path / "beauty"), "--tasks", "seqrec", "item2index", "preferenceobtain"])
    printed = capsys.readouterr().out
    # 198,502 interactions; of each of 22,363 users the first has no history and the last two are held out
    assert f"seqrec.parquet: {198_502 - 3 * 22_363:,} examples" in printed
    assert "item2index.parquet: 12,101 examples" in printed
    assert "preferenceobtain.parquet: 22,363 examples" in printed
