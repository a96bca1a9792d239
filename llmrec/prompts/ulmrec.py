"""ULMRec's prompts (arXiv 2412.05543), in our own words: who the user is, and tasks that give an index its meaning."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llmrec.prompts.history import history_prompt
from llmrec.prompts.segments import Segment, user_segment

#: What the index is aligned with, beside the next item of a history: taste in words, and the history itself.
TASKS = ("index2preference", "history2index")

USER_OPENING = "User:"
PREFERENCE_OPENING = "\nPreference:\n"
_INDEX_OPENING = "\nUser:"


class Pair(NamedTuple):
    """A prompt and its completion."""

    prompt: list[Segment]
    completion: list[Segment]


def user_opening(codes: Sequence[int]) -> list[Segment]:
    """The line at the head of a prompt that says whose history follows; nothing for a user without an index."""
    return [Segment("text", USER_OPENING), user_segment(codes), Segment("text", "\n")] if codes else []


def index_to_preference(users: Sequence[Sequence[int]], preferences: Sequence[str]) -> Iterator[Pair]:
    """The user's taste, in words, from the index alone.

    Args:
        users: codes of each user's index.
        preferences: what was written about each user's training interactions; "" for no example.
    """
    for codes, preference in zip(users, preferences, strict=True):
        if preference:
            prompt = [Segment("text", USER_OPENING), user_segment(codes), Segment("text", PREFERENCE_OPENING)]
            yield Pair(prompt, [Segment("text", preference)])


def history_to_index(
    users: Sequence[Sequence[int]], histories: Sequence[Sequence[str]], max_history: int
) -> Iterator[Pair]:
    """The user's index from the latest training items.

    Args:
        users: codes of each user's index.
        histories: item ids of each user, oldest first.
        max_history: items that are shown.
    """
    for codes, history in zip(users, histories, strict=True):
        if history:
            yield Pair(
                [*history_prompt(history[-max_history:]), Segment("text", _INDEX_OPENING)], [user_segment(codes)]
            )
