"""The examples of LC-Rec's tasks, before any wording: which fields, from which part of the data.

Everything here is taken from training sequences and item metadata (arXiv 2311.09049, section III-C). What a writer is
shown is cut out of the training sequence before the writer sees it: with a sequence of n training items, the last is
the target of the search, the n - 1 before it are the history.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmrec.prompts.item_text import ItemText
from llmrec.prompts.writer import Writer, WriterRequest
from llmrec.schema import DataError

if TYPE_CHECKING:
    from llmrec.dataset import RecDataset

#: Items of a history that a writer is shown (LC-Rec).
WRITER_HISTORY = 20

#: Task -> its fields, which are the columns of its table.
FIELDS: dict[str, tuple[str, ...]] = {
    "seqrec": ("history", "item"),
    "item2index": ("title", "description", "item"),
    "index2item": ("item", "title", "description"),
    "fusionseqrec": ("history", "titles", "item", "title", "description"),
    "itemsearch": (
        "history",
        "user_intention",
        "item_intention",
        "overall_preference",
        "long_term_preference",
        "short_term_preference",
        "item",
    ),
    "preferenceobtain": ("history", "overall_preference", "long_term_preference", "short_term_preference"),
}
#: Fields whose segments are items; those of all others are text.
ITEM_FIELDS = frozenset({"history", "item"})
#: Tasks whose texts come from a writer.
WRITER_TASKS = frozenset({"itemsearch", "preferenceobtain"})


class Row(NamedTuple):
    """One example: field -> item ids or texts. A field that the example lacks is absent."""

    user_id: str | None
    fields: dict[str, Sequence[str]]


class Sequences(NamedTuple):
    """Training sequences: ``item_ids[i]``, oldest first, is user ``user_ids[i]``'s; ``timestamps`` likewise."""

    user_ids: list[str]
    item_ids: list[list[str]]
    timestamps: list[list[int]]

    @property
    def num_prefixes(self) -> int:
        """Prefixes of at least one item that another item follows."""
        return sum(max(0, len(items) - 1) for items in self.item_ids)


def training_sequences(dataset: "RecDataset", texts: dict[str, ItemText]) -> Sequences:
    """The training part of each user's sequence.

    Raises:
        DataError: if a sequence holds an item that has no row in the items table.
    """
    columns = (dataset.train[name].to_pylist() for name in ("user_id", "item_ids", "timestamps"))
    sequences = Sequences(*columns)
    for user_id, items in zip(sequences.user_ids, sequences.item_ids, strict=True):
        unknown = next((item_id for item_id in items if item_id not in texts), None)
        if unknown is not None:
            raise DataError(
                f"Item {unknown!r} of user {user_id!r} in train.parquet is not in items.parquet: prepare the data anew."
            )
    return sequences


def with_validation(sequences: Sequences, dataset: "RecDataset") -> Sequences:
    """The sequences with each user's validation items appended, as ``dataset.train_sequences(refit=True)``.

    Timestamps stay those of training: they are there to find a training item's review.
    """
    item_ids = dataset.train_sequences(refit=True)
    trained = set(sequences.user_ids)
    new_users = [user_id for user_id in dataset.valid["user_id"].to_pylist() if user_id not in trained]
    user_ids = [*sequences.user_ids, *dict.fromkeys(new_users)]
    return Sequences(user_ids, item_ids, [*sequences.timestamps, *([] for _ in user_ids[len(trained) :])])


def seqrec_rows(sequences: Sequences, max_history: int) -> Iterator[Row]:
    """Every prefix of at least one item, cut to its latest ``max_history`` items, and the item that follows."""
    for user_id, items in zip(sequences.user_ids, sequences.item_ids, strict=True):
        for end in range(1, len(items)):
            history = items[max(0, end - max_history) : end]
            yield Row(user_id, {"history": history, "item": items[end : end + 1]})


def item_rows(texts: dict[str, ItemText]) -> Iterator[Row]:
    """Every item with its title and, where it has one, its description."""
    for item_id, text in texts.items():
        yield Row(None, {"item": [item_id], **_text_fields(text)})


def fusion_rows(
    sequences: Sequences, texts: dict[str, ItemText], max_history: int, samples: int | None, seed: int
) -> Iterator[Row]:
    """The rows of ``seqrec_rows`` with titles: of the history, in quotes, and of the next item.

    Args:
        sequences: of training.
        texts: of every item.
        max_history: items of a history.
        samples: keep so many rows, drawn uniformly without replacement; all where it is None or larger.
        seed: of the draw.
    """
    total = sequences.num_prefixes
    kept = np.ones(total, dtype=bool)
    if samples is not None and samples < total:
        kept[:] = False
        kept[np.random.default_rng(seed).choice(total, samples, replace=False)] = True
    for row, keep in zip(seqrec_rows(sequences, max_history), kept, strict=True):
        if keep:
            titles = [f'"{texts[item_id].title}"' for item_id in row.fields["history"]]
            yield Row(row.user_id, {**row.fields, "titles": titles, **_text_fields(texts[row.fields["item"][0]])})


def search_rows(
    sequences: Sequences, texts: dict[str, ItemText], reviews: dict[str, str], writer: Writer, max_history: int
) -> Iterator[Row]:
    """One search per user with two or more training items, for the last of them."""
    written = zip(
        _users(sequences),
        writer.intentions(_requests(sequences, texts, reviews)),
        writer.preferences(_requests(sequences, texts, reviews)),
        strict=True,
    )
    for (user_id, items), intentions, preferences in written:
        fields = _written_fields({**intentions._asdict(), **preferences._asdict()})
        yield Row(user_id, {"history": items[:-1][-max_history:], **fields, "item": items[-1:]})


def preference_rows(
    sequences: Sequences, texts: dict[str, ItemText], reviews: dict[str, str], writer: Writer, max_history: int
) -> Iterator[Row]:
    """One taste per user with two or more training items, from all but the last of them."""
    requests = _requests(sequences, texts, reviews)
    for (user_id, items), preferences in zip(_users(sequences), writer.preferences(requests), strict=True):
        yield Row(user_id, {"history": items[:-1][-max_history:], **_written_fields(preferences._asdict())})


def last_reviews(dataset: "RecDataset") -> dict[str, str]:
    """User id -> what the user wrote about their last training item; users who wrote nothing are absent."""
    reviews = zip(dataset.train["user_id"].to_pylist(), dataset.train_reviews(), strict=True)
    return {user_id: written[-1] for user_id, written in reviews if len(written) > 1 and written[-1]}


def _users(sequences: Sequences) -> Iterator[tuple[str, list[str]]]:
    for user_id, items in zip(sequences.user_ids, sequences.item_ids, strict=True):
        if len(items) > 1:
            yield user_id, items


def _requests(sequences: Sequences, texts: dict[str, ItemText], reviews: dict[str, str]) -> Iterator[WriterRequest]:
    for user_id, items in _users(sequences):
        history = tuple(texts[item_id] for item_id in items[:-1][-WRITER_HISTORY:])
        yield WriterRequest(user_id, history, texts[items[-1]], reviews.get(user_id, ""))


def _text_fields(text: ItemText) -> dict[str, Sequence[str]]:
    fields: dict[str, Sequence[str]] = {"title": [text.title]}
    return {**fields, "description": [text.description]} if text.description else fields


def _written_fields(texts: dict[str, str]) -> dict[str, Sequence[str]]:
    return {name: [text] for name, text in texts.items()}
