"""Queries made from a catalogue: needs of every kind, worded by a writer, drawn into splits that share nothing."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import pyarrow as pa
from tqdm import tqdm

from llmrec.dataset.queries import QUERY_SPLITS, hashed_split, same_query
from llmrec.prompts.described_needs import DescribedNeeds
from llmrec.prompts.keywords import clean_keywords
from llmrec.prompts.query_items import QueryItems
from llmrec.prompts.query_needs import DIFFICULT_KINDS, KINDS, Need, QueryKind, catalogue_needs
from llmrec.prompts.query_writer import QueryWriter, WrittenQuery
from llmrec.schema import QUERIES, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryConfig:
    """How many queries are made, and of what.

    Args:
        kinds: of queries, each in equal shares.
        train, rl, valid, test: queries of each split at most; a catalogue with fewer needs gives fewer.
        max_targets: needs that more items meet are left out.
        phrasings: queries of one need at most; a second is taken only where there are too few needs.
        seed: of what goes into which split, and of what is left out.
    """

    kinds: tuple[QueryKind, ...] = KINDS
    train: int = 8000
    rl: int = 1000
    valid: int = 500
    test: int = 1000
    max_targets: int = 10
    phrasings: int = 3
    seed: int = 42

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise ValueError(f"kinds holds {', '.join(unknown) or 'nothing'}; allowed are {', '.join(KINDS)}.")
        if min(self.sizes.values()) < 0 or not any(self.sizes.values()):
            raise ValueError(
                f"The splits have the sizes {self.sizes}; each needs 0 or more, and one of them 1 or more."
            )
        if self.max_targets < 1 or self.phrasings < 1:
            raise ValueError(
                f"max_targets is {self.max_targets} and phrasings {self.phrasings}; both must be 1 or more."
            )

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": self.train, "rl": self.rl, "valid": self.valid, "test": self.test}


def make_queries(
    items: QueryItems,
    writer: QueryWriter,
    config: QueryConfig,
    prohibited: Collection[str] = (),
    taken: Collection[str] = (),
) -> pa.Table:
    """Make queries of every kind, in equal shares as far as the catalogue has needs for them.

    All queries of a need, and all needs that the same items meet, lie in one split, drawn by a hash of these items.

    Args:
        items: the catalogue.
        writer: who words the needs; it is asked for as many as the splits take, and a few more.
        config: how many.
        prohibited: words that no keyword may hold.
        taken: queries that must not be made, such as those of a test of real ones.

    Returns:
        ``schema.QUERIES``, by split and kind; every grade is 1.

    Raises:
        DataError: if no query could be made at all.
    """
    seen = {same_query(text) for text in taken}
    drawn: dict[str, list[tuple[Need, WrittenQuery]]] = {split: [] for split in QUERY_SPLITS}
    described = DescribedNeeds(items, config.max_targets)
    for kind in config.kinds:
        needs = _needs(items, described, kind, config)
        for split, pairs in _drawn(kind, needs, writer, config, seen).items():
            drawn[split] += pairs
    rows = [
        _row(f"{split}-{number}", split, need, written, items, prohibited)
        for split, pairs in drawn.items()
        for number, (need, written) in enumerate(pairs)
    ]
    if not rows:
        raise DataError(
            "No query could be made: no need is met by few enough items. Raise max_targets, name more kinds, or give "
            "the catalogue categories or descriptions."
        )
    return pa.Table.from_pylist(rows, QUERIES)


def _needs(items: QueryItems, described: DescribedNeeds, kind: QueryKind, config: QueryConfig) -> list[Need]:
    """All needs of a kind, each once, in an order drawn from the seed."""
    found = catalogue_needs(items, kind, config.max_targets)
    if kind in DIFFICULT_KINDS:
        found = chain(found, described.needs(kind))
    unique = {repr(need): need for need in found}
    return [unique[text] for text in sorted(unique, key=lambda text: (_hash(f"{config.seed}/{text}"), text))]


def _drawn(
    kind: QueryKind, needs: list[Need], writer: QueryWriter, config: QueryConfig, seen: set[str]
) -> dict[str, list[tuple[Need, WrittenQuery]]]:
    """Split -> needs with a query: the first of every need, then, where more are wanted, the others."""
    quotas = _quotas(kind, config)
    drawn: dict[str, list[tuple[Need, WrittenQuery]]] = {split: [] for split in quotas}
    further: list[tuple[str, Need, WrittenQuery]] = []

    def take(split: str, need: Need, written: WrittenQuery) -> None:
        text = same_query(written.query)
        if len(drawn[split]) < quotas[split] and text not in seen:
            seen.add(text)
            drawn[split].append((need, written))
            progress.update()

    def wanted() -> Iterator[Need]:
        for need in needs:
            split = hashed_split(need.group, config.sizes, config.seed)
            if len(drawn[split]) < quotas[split]:
                asked.append(need)
                yield need

    asked: list[Need] = []
    with tqdm(total=sum(quotas.values()), desc=kind, unit="queries", disable=None) as progress:
        for number, written in enumerate(writer.queries(wanted())):
            for place, query in enumerate(written):
                split = hashed_split(asked[number].group, config.sizes, config.seed)
                if place == 0:
                    take(split, asked[number], query)
                else:
                    further.append((split, asked[number], query))
        for split, need, query in further:
            take(split, need, query)
    short = {split: quota - len(drawn[split]) for split, quota in quotas.items() if len(drawn[split]) < quota}
    if short:
        logger.info("%s: the catalogue has no needs for %s more queries.", kind, _listed(short))
    return drawn


def _quotas(kind: QueryKind, config: QueryConfig) -> dict[str, int]:
    """How many queries of a kind each split takes; the first kinds take what does not divide."""
    number = len(config.kinds)
    return {split: size // number + (config.kinds.index(kind) < size % number) for split, size in config.sizes.items()}


def _row(
    query_id: str, split: str, need: Need, written: WrittenQuery, items: QueryItems, prohibited: Collection[str]
) -> dict[str, object]:
    keywords = clean_keywords(written.query, written.keywords, prohibited, items.brands)
    return {
        "query_id": query_id,
        "query": written.query,
        "kind": need.kind,
        "split": split,
        "keywords": list(keywords),
        "item_ids": list(need.item_ids),
        "grades": [1] * len(need.item_ids),
    }


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in Counter(numbers).items())
