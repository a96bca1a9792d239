"""Typed segments: what prompts and completions are made of until they are tokenized.

A plain string can't tell an item from a title that happens to spell an item token. A segment can: only segments of
kind "item" ever become item tokens, and only those of kind "user" become a user's index (``llmrec.prompts.renderer``);
text that users or datasets supply is only ever put into segments of kind "text".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

#: Between two neighbours of a list: history items, quoted titles.
JOINER = ", "

#: A list of segments in a parquet column.
SEGMENTS_TYPE = pa.list_(pa.struct([pa.field("kind", pa.string()), pa.field("value", pa.string())]))


class Segment(NamedTuple):
    """A piece of a prompt or a completion: literal text, an item by its ``item_id``, or a user by ``user_segment``."""

    kind: Literal["text", "item", "user"]
    value: str


def user_segment(codes: Sequence[int]) -> Segment:
    """A user, by the codes of the user's index."""
    return Segment("user", " ".join(map(str, codes)))


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """``segments`` with ``JOINER`` between neighbours."""
    spread: list[Segment] = []
    for number, segment in enumerate(segments):
        if number:
            spread.append(Segment("text", JOINER))
        spread.append(segment)
    return spread


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """``segments`` with neighbouring text made one segment and empty text left out."""
    result: list[Segment] = []
    for segment in segments:
        if segment.kind == "text" and not segment.value:
            continue
        if segment.kind == "text" and result and result[-1].kind == "text":
            result[-1] = Segment("text", result[-1].value + segment.value)
        else:
            result.append(segment)
    return result


def readable(segments: Iterable[Segment], titles: Mapping[str, str]) -> str:
    """The segments as one string for people: each item as its title in brackets, each user as numbers in brackets.

    Args:
        segments: a prompt or a completion.
        titles: item id -> title.
    """
    return "".join(_shown(segment, titles) for segment in segments)


def _shown(segment: Segment, titles: Mapping[str, str]) -> str:
    if segment.kind == "text":
        return segment.value
    return f"[{titles[segment.value] if segment.kind == 'item' else segment.value}]"
