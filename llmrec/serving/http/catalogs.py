"""The catalogue that is served: one reference, swapped whole. A request takes it once and never sees another."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.catalog import Catalog
from llmrec.schema import DataError
from llmrec.serving.checkpoint import Served
from llmrec.serving.engines.engine import Engine, LoadedCatalog, RankRequest
from llmrec.serving.http.access_log import LOGGER
from llmrec.serving.http.telemetry import Telemetry
from llmrec.trie import Trie
from llmrec.vocabulary import code_token


@dataclass(frozen=True)
class ServedCatalog:
    """A catalogue as requests see it.

    Args:
        loaded: ready to be searched by the engine.
        lower_titles: titles in lower case, to search in.
    """

    loaded: LoadedCatalog
    lower_titles: pa.ChunkedArray

    @classmethod
    def of(cls, loaded: LoadedCatalog) -> "ServedCatalog":
        """Index what the engine has loaded."""
        _ = loaded.catalog.fingerprint, loaded.catalog.item_index, loaded.catalog.titles  # now, not in a request
        return cls(loaded, pc.utf8_lower(loaded.catalog.items["title"]))

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.loaded.catalog

    @property
    def trie(self) -> Trie | None:
        """Its semantic IDs, to check rules before they are queued; None where items have none."""
        return None if self.loaded.trie is None else self.loaded.trie.trie

    def semantic_id(self, row: int) -> list[int]:
        """Codes of the item in ``row``."""
        return self.catalog.semantic_ids[row].tolist()

    def search(self, words: Sequence[str], limit: int) -> list[int]:
        """The first ``limit`` rows whose titles have all of ``words``, whatever their case."""
        found = np.ones(len(self.catalog), dtype=bool)
        for word in words:
            found &= pc.match_substring(self.lower_titles, word.lower()).to_numpy()
        return np.flatnonzero(found)[:limit].tolist()

    def rows_of_titles(self, titles: Iterable[str]) -> dict[str, list[int]]:
        """Rows of the items with exactly these titles; titles that no item has are left out."""
        wanted = list(dict.fromkeys(titles))
        if not wanted:
            return {}
        place = pc.index_in(self.catalog.items["title"], value_set=pa.array(wanted, pa.string()))
        rows: dict[str, list[int]] = {}
        for row in np.flatnonzero(place.is_valid().to_numpy()).tolist():
            rows.setdefault(self.catalog.titles[row], []).append(row)
        return rows


def code_text(codes: Sequence[int]) -> str:
    """The tokens of a semantic ID or a prefix of one, as text: ``<a_1><b_2>``."""
    return "".join(code_token(level, code) for level, code in enumerate(codes))


@dataclass(frozen=True)
class Change:
    """What a reload or rollback did; both catalogues are whole."""

    old: Catalog
    new: Catalog

    @property
    def added(self) -> int:
        """Items that were not there before."""
        return len(self.new.item_index.keys() - self.old.item_index.keys())

    @property
    def removed(self) -> int:
        """Items that are gone."""
        return len(self.old.item_index.keys() - self.new.item_index.keys())


class Catalogs:
    """The catalogue served, and the one before it.

    Args:
        checkpoint: whose items keep their semantic IDs, whatever is loaded.
        engine: searches them.
        telemetry: is told of changes.
    """

    def __init__(self, checkpoint: Served, engine: Engine, telemetry: Telemetry) -> None:
        self._checkpoint = checkpoint
        self._engine = engine
        self._telemetry = telemetry
        self._lock = asyncio.Lock()
        self._current: ServedCatalog | None = None
        self.previous: ServedCatalog | None = None

    @property
    def current(self) -> ServedCatalog:
        """What new requests are answered from: take it once."""
        if self._current is None:
            raise RuntimeError("No catalogue is loaded yet: await start() first.")
        return self._current

    async def start(self) -> None:
        """Load the checkpoint's own catalogue."""
        self._serve(await self._prepare(self._checkpoint.catalog, self._checkpoint.folder))

    async def reload(self, folder: Path) -> Change:
        """Serve the catalogue in ``folder`` from now on; on any error the one before stays.

        Raises:
            DataError, ValueError, OSError: if it cannot be read, does not fit the model, or cannot be searched.
        """
        async with self._lock:
            old = self.current
            with self._counted("reload"):
                catalog = await asyncio.to_thread(self._read, folder)
                # items may be the same, and what a model that scores or embeds them reads of them another
                if self._checkpoint.reads_items or not _is_same(catalog, old.catalog):
                    self._serve(await self._prepare(catalog, folder))
                    self.previous = old
            return Change(old.catalog, catalog)

    async def rollback(self) -> Change:
        """Serve the catalogue before this one again; a second rollback undoes the first.

        Raises:
            ValueError: if there was none.
        """
        async with self._lock:
            old = self.current
            with self._counted("rollback"):
                if self.previous is None:
                    raise ValueError("No catalogue was served before this one: there is nothing to roll back to.")
                self._serve(self.previous)
                self.previous = old
            return Change(old.catalog, self.current.catalog)

    @contextmanager
    def _counted(self, kind: Literal["reload", "rollback"]) -> Iterator[None]:
        outcome = "refused"
        try:
            yield
            outcome = "ok"
        finally:
            self._telemetry.changes.labels(kind, outcome).inc()

    def _serve(self, served: ServedCatalog) -> None:
        self._current = served
        fingerprint, num_items = served.catalog.fingerprint, len(served.catalog)
        self._telemetry.show_catalog(fingerprint, num_items)
        fields = {"catalog": fingerprint, "num_items": num_items}
        logging.getLogger(LOGGER).info("catalogue served", extra={"fields": fields})

    def _read(self, folder: Path) -> Catalog:
        catalog = Catalog.load(folder)
        self._checkpoint.check_catalog(catalog)
        return catalog

    async def _prepare(self, catalog: Catalog, folder: Path) -> ServedCatalog:
        """Load and try: a catalogue that cannot be searched never serves."""
        loaded = await self._engine.load(catalog, folder)
        served = await asyncio.to_thread(ServedCatalog.of, loaded)
        prompt = loaded.prompt_tokens(catalog.item_ids[:1])
        ranked = await self._engine.rank(loaded, RankRequest(prompt, num_beams=1, k=1))
        if len(ranked.items) != 1 or not 0 <= ranked.items[0] < len(catalog):
            raise DataError("A trial search in the catalogue found no item of it.")
        return served


def _is_same(one: Catalog, other: Catalog) -> bool:
    """Whether two catalogues agree in everything, brands and categories included."""
    return one.fingerprint == other.fingerprint and one.items.equals(other.items)
