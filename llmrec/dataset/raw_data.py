"""What a reader hands over: interactions and items in the project's schemas, nothing filtered yet."""

from dataclasses import dataclass

import pyarrow as pa

from llmrec.schema import INTERACTIONS, ITEMS, DataError


@dataclass(frozen=True)
class RawData:
    """Interactions and items as read.

    Args:
        name: of the dataset, for dataset.json and reports.
        interactions: columns of ``schema.INTERACTIONS``, in any order of rows.
        items: columns of ``schema.ITEMS``, one row per item.
        source: what was read, recorded in dataset.json.
        has_timestamps: False where ``timestamp`` is a position in the user's history, which orders one user's events
            and says nothing about two users'.

    Raises:
        DataError: if a required column holds a null, or an item id is repeated.
    """

    name: str
    interactions: pa.Table
    items: pa.Table
    source: str
    has_timestamps: bool = True

    def __post_init__(self) -> None:
        for table_name, schema in (("interactions", INTERACTIONS), ("items", ITEMS)):
            table = getattr(self, table_name)
            missing = [name for name in schema.names if name not in table.column_names]
            if missing:
                raise DataError(
                    f"The {table_name} of {self.source} lack the columns {missing}; have {table.column_names}."
                )
            for column in schema:
                nulls = table[column.name].null_count
                if nulls and not column.nullable:
                    row = table[column.name].is_null().index(True).as_py()
                    raise DataError(
                        f"Column {column.name!r} of the {table_name} of {self.source} has {nulls} empty values, the "
                        f"first in row {row + 1}. Fill them in or remove those rows."
                    )
            object.__setattr__(self, table_name, table.select(schema.names).cast(schema))
        counts = self.items["item_id"].value_counts()
        if len(counts) < self.items.num_rows:
            repeated = next(entry["values"] for entry in counts.to_pylist() if entry["counts"] > 1)
            raise DataError(f"The items of {self.source} repeat the item id {repeated!r}; each needs one row.")
