"""Random catalogues for property tests."""

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from llmrec.decoding.rules import Rules


@st.composite
def id_sets(draw: st.DrawFn, depths: tuple[int, int] = (1, 4), codes: int = 5, max_items: int = 40) -> np.ndarray:
    """Semantic IDs in any order, of fixed or mixed depth, some of them shared: int32 (num_items, num_codebooks).

    Args:
        depths: fewest and most levels.
        codes: at each level.
        max_items: at most so many.
    """
    depth = draw(st.integers(*depths))
    code = st.integers(0, codes - 1)
    row = st.lists(code, min_size=1, max_size=depth) if draw(st.booleans()) else st.tuples(*[code] * depth)
    rows = sorted(draw(st.sets(row.map(tuple), min_size=1, max_size=max_items)))
    # a prefix of other IDs stands right before the first of them
    rows = [row for row, other in zip(rows, [*rows[1:], ()], strict=True) if other[: len(row)] != row]
    room = max_items - len(rows)
    rows += draw(st.lists(st.sampled_from(rows), max_size=min(8, room))) if room else []
    width = max(len(row) for row in rows)
    padded = [[*row, *[-1] * (width - len(row))] for row in draw(st.permutations(rows))]
    return np.array(padded, dtype=np.int32)


def prefixes(ids: np.ndarray, depth: int) -> list[tuple[int, ...]]:
    """The different prefixes of one length, in order."""
    return sorted({tuple(row) for row in ids[:, :depth].tolist()})


@st.composite
def rule_sets(draw: st.DrawFn, ids: np.ndarray, subsets: Mapping[str, Sequence[int]]) -> Rules:
    """Rules of one user, each of them there or not; prefixes are those of items."""
    indices = st.integers(0, len(ids) - 1)
    prefix = st.builds(lambda item, depth: ids[item, :depth].tolist(), indices, st.integers(1, ids.shape[1]))
    allow = st.none() | st.lists(indices, min_size=1, max_size=len(ids))
    if subsets:
        allow |= st.sampled_from(sorted(subsets))
    return Rules(
        exclude=draw(st.lists(indices, max_size=len(ids))),
        allow=draw(allow),
        require_prefix=draw(st.just([]) | prefix),
        forbid_prefixes=draw(st.lists(prefix, max_size=3)),
    )


def satisfies(ids: np.ndarray, rule: Rules | None, subsets: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Whether each item may be returned: bool (num_items,)."""
    if rule is None:
        return np.ones(len(ids), dtype=bool)
    allow = subsets[rule.allow] if isinstance(rule.allow, str) else rule.allow

    def satisfied(item: int) -> bool:
        row = ids[item].tolist()
        return (
            item not in rule.exclude
            and (allow is None or item in allow)
            and row[: len(rule.require_prefix)] == list(rule.require_prefix)
            and not any(row[: len(prefix)] == list(prefix) for prefix in rule.forbid_prefixes)
        )

    return np.array([satisfied(item) for item in range(len(ids))])
