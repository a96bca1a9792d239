"""The tables that pass between stages: column names, types, and checks that say what is wrong and in which row.

Everything on disk is parquet with one of the schemas below, readable with ``datasets.load_dataset("parquet", ...)``.
docs/data.md describes each column for users.
"""

import pyarrow as pa

#: One row per kept event, ordered by user, then by the tie rule (timestamp, then item id).
INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),  # Unix seconds; the position where there is none
        pa.field("rating", pa.float32()),
        pa.field("review", pa.string()),
    ]
)

#: One row per catalogue item; the row order defines the item index used in arrays.
ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),  # "" where the source has none
        pa.field("brand", pa.string(), nullable=False),  # "" where the source has none
        pa.field("categories", pa.list_(pa.string()), nullable=False),  # genres, category path; [] where there are none
    ]
)

#: One row per user with at least one training interaction, oldest item first; never truncated.
TRAIN = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("timestamps", pa.list_(pa.int64()), nullable=False),
    ]
)

#: One row per evaluated user: what the model sees, what it must find, and what counts as seen.
HISTORIES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),  # at most max_history items, oldest first
        pa.field("target_item_ids", pa.list_(pa.string()), nullable=False),  # one for leave-last-out
        pa.field("seen_item_ids", pa.list_(pa.string()), nullable=False),  # every distinct item before the target
    ]
)

#: One row per search query and the items judged for it, in any order.
QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # how it came about, such as question, negation, real
        pa.field("split", pa.string(), nullable=False),  # train, rl (reinforcement), valid or test
        pa.field("keywords", pa.list_(pa.string()), nullable=False),  # the chain of thought; [] where there is none
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("grades", pa.list_(pa.int32()), nullable=False),  # as item_ids; 0 = judged, and not relevant
    ]
)


class DataError(ValueError):
    """Bad input data. The message names the file, the column and the row, and says what to do next."""
