"""The beam tree of a search, for people to look at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TracedBeam:
    """A prefix of semantic IDs that was looked at.

    Attributes:
        codes: from the first level on.
        log_prob: of the last code after the ones before it.
        score: of the whole prefix: the sum of the log-probabilities.
        survives: whether it was kept; otherwise it is one of the best of those that were cut.
        num_items: catalogue items under the prefix, rules aside.
    """

    codes: tuple[int, ...]
    log_prob: float
    score: float
    survives: bool
    num_items: int
