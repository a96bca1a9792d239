"""What defines a split: one frozen dataclass, recorded in dataset.json."""

from dataclasses import dataclass
from typing import Literal

from llmrec.dataset.engines import EngineName


@dataclass(frozen=True)
class PreparationConfig:
    """How interactions become training, validation and test data.

    Args:
        k_core: users and items with fewer interactions are dropped, again and again until none is left; 1 keeps all.
        min_rating: interactions rated lower, or not rated, are dropped; None keeps all.
        duplicates: of a user's interactions with one item, keep the first, the last, or all.
        split: ``leave_last_out`` (each user's last interaction is for test and the one before for validation) or
            ``global_temporal`` (the latest interactions of all users are for test, those before for validation).
        valid_fraction: share of interactions in the validation period (``global_temporal`` only).
        test_fraction: share of interactions in the test period (``global_temporal`` only).
        max_history: latest items of a history that validation and test rows hold.
        engine: where it runs; the rows are the same.

    Raises:
        ValueError: if a value is out of range.
    """

    k_core: int = 5
    min_rating: float | None = None
    duplicates: Literal["first", "last", "keep"] = "first"
    split: Literal["leave_last_out", "global_temporal"] = "leave_last_out"
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    max_history: int = 50
    engine: EngineName = "duckdb"

    def __post_init__(self) -> None:
        if self.k_core < 1:
            raise ValueError(f"k_core is {self.k_core}; it needs 1 or more.")
        if self.max_history < 1:
            raise ValueError(f"max_history is {self.max_history}; it needs 1 or more.")
        if self.duplicates not in ("first", "last", "keep"):
            raise ValueError(f"duplicates is {self.duplicates!r}; allowed are 'first', 'last' and 'keep'.")
        if self.split not in ("leave_last_out", "global_temporal"):
            raise ValueError(f"split is {self.split!r}; allowed are 'leave_last_out' and 'global_temporal'.")
        if min(self.valid_fraction, self.test_fraction) <= 0 or self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction {self.valid_fraction} and test_fraction {self.test_fraction} must be above 0 and "
                "leave a share for training."
            )
