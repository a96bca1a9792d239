"""Random catalogues for property tests."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def id_sets(
    draw: st.DrawFn, depths: tuple[int, int] = (1, 4), codes: int = 5, max_items: int = 40, has_last: bool = False
) -> np.ndarray:
    """Semantic IDs in any order, of fixed or mixed depth, some of them shared: int32 (num_items, num_codebooks).

    Args:
        depths: fewest and most levels.
        codes: at each level.
        max_items: at most so many.
        has_last: whether the ID of the last code at every level is among them, so that every level uses all codes.
    """
    depth = draw(st.integers(*depths))
    code = st.integers(0, codes - 1)
    row = st.lists(code, min_size=1, max_size=depth) if draw(st.booleans()) else st.tuples(*[code] * depth)
    rows = sorted(draw(st.sets(row.map(tuple), min_size=1, max_size=max_items)))
    if has_last:
        rows = sorted({*rows[:-1], (codes - 1,) * depth})
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
