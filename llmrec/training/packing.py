"""Several examples in one sequence, without one seeing another: which go together, and the batch they become."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmrec.training.examples import IGNORED_LABEL


def pack_lengths(lengths: np.ndarray, capacity: int, seed: Sequence[int] = (0,)) -> list[np.ndarray]:
    """Examples into as few sequences of at most ``capacity`` tokens as best-fit decreasing finds.

    Args:
        lengths: int array of shape (num_examples,), tokens of each example, at most ``capacity``.
        capacity: tokens of a sequence.
        seed: examples of equal length are taken in an order drawn from it, so that neighbours change.

    Returns:
        One int64 array of example indices for each sequence.

    Raises:
        ValueError: if an example is longer than ``capacity``.
    """
    if len(lengths) and lengths.max() > capacity:
        raise ValueError(
            f"An example of {lengths.max()} tokens does not fit a sequence of {capacity}: raise --max_length."
        )
    drawn = np.random.default_rng(seed).permutation(len(lengths))
    order = drawn[np.argsort(-lengths[drawn], kind="stable")]
    packs: list[list[int]] = []
    packs_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms: list[int] = []  # those that some pack has left, ascending: at most capacity + 1 numbers
    for example, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            pack, room = len(packs), capacity
            packs.append([])
        else:
            room = rooms[place]
            pack = packs_by_room[room].pop()
            if not packs_by_room[room]:
                rooms.pop(place)
        packs[pack].append(example)
        room -= length
        if not packs_by_room[room]:
            insort(rooms, room)
        packs_by_room[room].append(pack)
    return [np.array(pack, dtype=np.int64) for pack in packs]


def split_packs(packs: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The same examples in exactly ``count`` packs, made by halving those with the most examples.

    Epochs differ by a few packs, since templates are drawn anew; the trainer wants the same number in each.

    Raises:
        ValueError: if ``count`` is less than the packs or more than the examples.
    """
    if not len(packs) <= count <= sum(map(len, packs)):
        raise ValueError(f"{len(packs)} packs of {sum(map(len, packs))} examples cannot become {count}.")
    heap = [(-len(pack), number, pack) for number, pack in enumerate(packs)]
    heapq.heapify(heap)
    while len(heap) < count:
        _, number, pack = heapq.heappop(heap)
        half = len(pack) // 2
        heapq.heappush(heap, (-half, number, pack[:half]))
        heapq.heappush(heap, (half - len(pack), len(heap) + 1, pack[half:]))
    return [pack for _, _, pack in sorted(heap, key=lambda entry: entry[1])]


@dataclass
class PackedCollator:
    """Packed sequences as a batch whose position ids start over with each example, and without an attention mask.

    That is how transformers recognises a packed sequence: it builds a block-diagonal causal mask from the positions.
    Padding counts as one more example, of which no token is a target.

    Args:
        pad_token_id: fills up shorter sequences.
        pad_to_multiple_of: rounds the batch's length up, for kernels that want that.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows of ``input_ids``, ``labels`` and, where they hold several examples, ``seq_lengths``.

        Returns:
            ``input_ids``, ``labels`` and ``position_ids``, int64 of shape (batch, longest).
        """
        longest = max(len(row["input_ids"]) for row in rows)
        if self.pad_to_multiple_of:
            longest = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(rows), longest)
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "labels": torch.full(shape, IGNORED_LABEL),
            "position_ids": torch.zeros(shape, dtype=torch.long),
        }
        for place, row in enumerate(rows):
            size = len(row["input_ids"])
            batch["input_ids"][place, :size] = torch.as_tensor(row["input_ids"])
            batch["labels"][place, :size] = torch.as_tensor(row["labels"])
            lengths = [*row.get("seq_lengths", [size]), longest - size]
            batch["position_ids"][place] = torch.cat([torch.arange(length) for length in lengths])
            # the token before an example's first one belongs to another example
            batch["labels"][place][batch["position_ids"][place] == 0] = IGNORED_LABEL
        return batch
