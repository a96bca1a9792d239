"""The prompt of ``history_loss all``: one opening, then the items back to back, each of them a target."""

from collections.abc import Sequence

from llmrec.prompts.segments import Segment

HISTORY_OPENING = "History:\n"


def history_prompt(history: Sequence[str]) -> list[Segment]:
    """Segments of a history of item ids, oldest first; the next item's tokens follow directly."""
    return [Segment("text", HISTORY_OPENING), *(Segment("item", item_id) for item_id in history)]
