"""What benchmarks/training.py trains on: MovieLens or made-up histories, and each as prefixes or whole histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from llmrec.catalog import Catalog
from llmrec.prompts.history import history_prompt
from llmrec.prompts.instructions import instruction_schema
from llmrec.prompts.lcrec import seqrec_prompt
from llmrec.prompts.lcrec_rows import Sequences, seqrec_rows
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.examples import ExampleSource, HistoryWindows, InstructionExamples

SourceKind = Literal["prefix", "history"]

#: Of MovieLens-100K, whose shape made-up histories have: log-normal lengths of this median, and the shortest.
MEDIAN_LENGTH, LENGTH_SIGMA, SHORTEST = 63, 0.9, 18


@dataclass(frozen=True)
class Workload:
    """Training histories of one catalogue.

    Args:
        renderer: of the catalogue and vocabulary.
        histories: item ids of each user, oldest first.
        max_history: items of a history that the model sees.
        prefix_rows: prefixes kept for the ways that train one example per prefix, a random sample: more than they get
            through, so that they never repeat one and need not write down all.
        seed: of all that is drawn.
    """

    renderer: SegmentRenderer
    histories: list[list[str]]
    max_history: int
    prefix_rows: int
    seed: int

    def source(self, kind: SourceKind) -> ExampleSource:
        """Examples of one prefix each, or windows with the loss on every item."""
        if kind == "history":
            return HistoryWindows(self.histories, self.renderer, self.max_history + 1, self.seed)
        table = prefix_table(self.histories, self.max_history, self.prefix_rows, self.seed)
        return InstructionExamples(table, self.renderer, self.seed)

    def targets(self, kind: SourceKind, label_tokens: int, examples: int) -> float:
        """Items that a history asks for, counted from the tokens under the loss.

        A prefix example ends with the end token; a window's first item has no history and is not counted.
        """
        levels = self.renderer.catalog.num_codebooks
        return label_tokens / (levels + 1) if kind == "prefix" else label_tokens / levels - examples

    def prompt(self, kind: SourceKind) -> Any:
        """The wording that validation uses: that of training."""
        return seqrec_prompt if kind == "prefix" else history_prompt


def prefix_table(histories: Sequence[Sequence[str]], max_history: int, num_rows: int, seed: int) -> pa.Table:
    """The seqrec instruction table of ``num_rows`` random prefixes, or of all where there are fewer."""
    users = [str(user) for user in range(len(histories))]
    rows = list(seqrec_rows(Sequences(users, [list(items) for items in histories], [[] for _ in users]), max_history))
    kept = np.random.default_rng(seed).permutation(len(rows))[:num_rows]
    content = []
    for row in (rows[index] for index in kept):
        fields = {name: [{"kind": "item", "value": item} for item in row.fields[name]] for name in ("history", "item")}
        content.append({"task": "seqrec", "user_id": row.user_id, "writer": None, **fields})
    return pa.Table.from_pylist(content, schema=instruction_schema("seqrec"))


def made_up_catalog(num_items: int, codebook_sizes: Sequence[int], seed: int) -> Catalog:
    """Items with random semantic IDs, all different."""
    flat = np.random.default_rng(seed).choice(int(np.prod(codebook_sizes)), num_items, replace=False)
    semantic_ids = np.stack(np.unravel_index(flat, codebook_sizes), axis=1)
    items = pa.table(
        {
            "item_id": [str(number) for number in range(num_items)],
            "title": [f"Item {number}" for number in range(num_items)],
            "description": [""] * num_items,
            "brand": [""] * num_items,
            "categories": [[]] * num_items,
        }
    )
    return Catalog(items, semantic_ids, tuple(codebook_sizes))


def made_up_histories(catalog: Catalog, num_users: int, seed: int) -> list[list[str]]:
    """Random items; lengths as in MovieLens-100K."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(SHORTEST, np.exp(rng.normal(np.log(MEDIAN_LENGTH), LENGTH_SIGMA, num_users)).astype(int))
    item_ids = np.array(catalog.item_ids)
    return [item_ids[rng.integers(0, len(item_ids), length)].tolist() for length in lengths]
