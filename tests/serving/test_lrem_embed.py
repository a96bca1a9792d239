"""``llmrec embed``: embeddings of a table of items, the same from every engine and after an interruption."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from llmrec.cli import main
from llmrec.models.lrem import LremSearcher
from llmrec.models.lrem.catalog_embeddings import EmbeddingParts
from llmrec.schema import DataError
from llmrec.serving.batch.embed import EmbedOptions, embed_file
from llmrec.serving.checkpoint import ServedLrem, open_served
from llmrec.vector_index import VectorIndex
from tests.serving.tiny_lrem import NUM_ITEMS, WIDTH, plain_catalog, save_tiny_lrem

OPTIONS = EmbedOptions(device="cpu", batch_size=4, rows_per_part=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lrem(tmp_path_factory.mktemp("serving") / "lrem")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """More items than the checkpoint knows, each with a brand, which is read too."""
    table = plain_catalog(50).items
    brands = pa.array([f"Brand {row}" for row in range(50)])
    pq.write_table(table.set_column(table.column_names.index("brand"), "brand", brands), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def stop_after_two_parts(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    write, written = EmbeddingParts.write, []

    def stop(parts: EmbeddingParts, part: int, vectors: np.ndarray) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part)
        write(parts, part, vectors)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingParts, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_file(*arguments)


def expected(folder: Path, items: Path) -> np.ndarray:
    served = open_served(str(folder))
    assert isinstance(served, ServedLrem)
    lines = served.prompts.lines(pq.read_table(items))
    return LremSearcher(served.prompts, lines, 8).embed_items(served.load_model())


def test_the_command_embeds_the_checkpoints_own_items_and_indexes_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # main would set it for this process
    output = tmp_path / "out" / "vectors.safetensors"
    command = ["embed", str(folder), "--output", str(output), "--index", "approximate", "--device", "cpu"]
    main(command)
    assert f"{output}: {NUM_ITEMS} items" in capsys.readouterr().out
    served = open_served(str(folder))
    vectors = load_file(output)["embeddings"]
    np.testing.assert_allclose(vectors, served.checkpoint.item_embeddings, atol=1e-5)
    index = VectorIndex.load(tmp_path / "out" / "vectors.faiss")
    assert (len(index), index.dim) == (NUM_ITEMS, WIDTH)
    assert index.search(vectors, 1)[0][:, 0].tolist() == list(range(NUM_ITEMS))
    assert sorted(path.name for path in output.parent.iterdir()) == ["vectors.faiss", "vectors.safetensors"]
    main(command)
    assert "done before" in capsys.readouterr().out


def test_an_interrupted_call_goes_on(
    folder: Path, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vectors.safetensors"
    stop_after_two_parts(monkeypatch, str(folder), items, output, OPTIONS)
    assert not output.exists()
    summary = embed_file(str(folder), items, output, replace(OPTIONS, batch_size=2))
    assert (summary.num_items, summary.num_resumed) == (50, 14)
    np.testing.assert_allclose(load_file(output)["embeddings"], expected(folder, items), atol=1e-5)


def test_what_was_made_with_something_else_is_kept(
    folder: Path, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vectors.safetensors"
    stop_after_two_parts(monkeypatch, str(folder), items, output, OPTIONS)
    with pytest.raises(DataError, match="embeddings of another run, made with items"):
        embed_file(str(folder), None, output, OPTIONS)
    embed_file(str(folder), None, output, replace(OPTIONS, overwrite=True))
    with pytest.raises(DataError, match=r"vectors.safetensors is there already, made with items .*--overwrite"):
        embed_file(str(folder), items, output, OPTIONS)
    assert len(load_file(output)["embeddings"]) == NUM_ITEMS
    embed_file(str(folder), items, output, replace(OPTIONS, overwrite=True))
    assert len(load_file(output)["embeddings"]) == 50
    output.write_bytes(b"something else")
    with pytest.raises(DataError, match="not made by llmrec embed"):
        embed_file(str(folder), items, output, OPTIONS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"title": ["a", None]}, "no table of items"),
        ({"title": ["a", " "]}, "Item 'y' has no title"),
        ({"title": None}, "no table of items"),
        ({}, "has no rows"),
    ],
)
def test_items_that_will_not_do_are_refused(folder: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    blank = {"description": ["", ""], "brand": ["", ""], "categories": pa.array([[], []], pa.list_(pa.string()))}
    columns = {"item_id": ["x", "y"], "title": ["a", "b"], **blank, **change}
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    pq.write_table(table if change else table.slice(0, 0), tmp_path / "items.parquet")
    with pytest.raises(DataError, match=told):
        embed_file(str(folder), tmp_path / "items.parquet", tmp_path / "out.safetensors", OPTIONS)


def test_options_and_checkpoints_that_will_not_do(checkpoint_folder: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    with pytest.raises(DataError, match="checkpoint of lcrec; only LREM's"):
        embed_file(str(checkpoint_folder), None, output, OPTIONS)
    with pytest.raises(DataError, match="not a file"):
        embed_file(str(folder), tmp_path / "none.parquet", output, OPTIONS)
    with pytest.raises(DataError, match="is a folder"):
        embed_file(str(folder), None, tmp_path, OPTIONS)
    for change, told in (({"batch_size": 0}, "batch_size is 0"), ({"dtype": "int8"}, "allowed are auto, float32")):
        with pytest.raises(DataError, match=told):
            EmbedOptions(**change)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_of_ray_go_on_and_give_the_same(
    folder: Path, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray  # noqa: PLC0415 -- seconds

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        output = tmp_path / "vectors.safetensors"
        stop_after_two_parts(monkeypatch, str(folder), items, output, OPTIONS)
        # under relative names, which mean nothing to the workers
        monkeypatch.chdir(tmp_path)
        summary = embed_file(str(folder), Path("items.parquet"), output, replace(OPTIONS, engine="ray"))
        assert summary.num_resumed == 14
        np.testing.assert_allclose(load_file(output)["embeddings"], expected(folder, items), atol=1e-5)
        with monkeypatch.context() as patch:
            patch.setattr("llmrec.serving.batch.embed.checkpoint_fingerprint", lambda _: "0" * 16)
            with pytest.raises(RuntimeError, match=r"A Ray worker failed.*was started with 0000000000000000"):
                embed_file(str(folder), items, tmp_path / "other.safetensors", replace(OPTIONS, engine="ray"))
    finally:
        ray.shutdown()
