"""Joining and merging keep every character and every item, in order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.segments import JOINER, Segment, joined, merged, readable, user_segment

SEGMENTS = st.lists(st.builds(Segment, st.sampled_from(["text", "item", "user"]), st.text(max_size=5)), max_size=12)


def _spelled(segments: list[Segment]) -> list[str | Segment]:
    """Characters of text segments and whole item segments."""
    return [part for segment in segments for part in (segment.value if segment.kind == "text" else [segment])]


@given(SEGMENTS)
def test_merging_loses_nothing_and_leaves_no_two_neighbouring_texts(segments) -> None:
    result = merged(segments)
    assert _spelled(result) == _spelled(segments)
    kinds = [segment.kind for segment in result]
    assert not any(pair == ("text", "text") for pair in pairwise(kinds))
    assert merged(result) == result


@given(SEGMENTS)
def test_joining_puts_one_joiner_between_neighbours(segments) -> None:
    result = joined(segments)
    assert result[::2] == segments
    assert set(result[1::2]) <= {Segment("text", JOINER)}
    assert len(result) == max(0, 2 * len(segments) - 1)


def test_people_read_titles_in_brackets() -> None:
    segments = [user_segment([3, 12]), Segment("text", " after "), Segment("item", "7"), Segment("text", " <a_1>")]
    assert readable(segments, {"7": "Heat"}) == "[3 12] after [Heat] <a_1>"
