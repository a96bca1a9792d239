"""Candidates with letters: the prompt that asks which of a retriever's items comes next (LlamaRec, ULMRec)."""

import string
from collections.abc import Sequence

from llmrec.prompts.segments import Segment
from llmrec.prompts.ulmrec import user_opening
from llmrec.vocabulary import ItemVocabulary

LETTERS = string.ascii_uppercase
#: Opens every prompt of this kind, so that a search computes it once for all users.
INSTRUCTION = (
    "Below stand a user, what the user chose so far, oldest first, and candidates for the next choice. "
    "Answer with the letter of the candidate that fits best.\n\n"
)
_HISTORY, _CANDIDATES, _ANSWER = "History:\n", "Candidates:\n", "Answer:\n"


def candidate_prompt(codes: Sequence[int], history: Sequence[str], candidates: Sequence[str]) -> list[Segment]:
    """Segments for a renderer of titles, which gives each item a line.

    Args:
        codes: of the user's index; none where there is none.
        history: item ids, oldest first.
        candidates: item ids, in the order of their letters.

    Raises:
        ValueError: if there are more candidates than letters.
    """
    if len(candidates) > len(LETTERS):
        raise ValueError(f"{len(candidates)} candidates; there are letters for {len(LETTERS)}.")
    segments = [Segment("text", INSTRUCTION), *user_opening(codes), Segment("text", _HISTORY)]
    for number, item_id in enumerate(history, start=1):
        segments += [Segment("text", f"({number}) "), Segment("item", item_id)]
    segments.append(Segment("text", _CANDIDATES))
    for letter, item_id in zip(LETTERS, candidates, strict=False):
        segments += [Segment("text", f"({letter}) "), Segment("item", item_id)]
    return [*segments, Segment("text", _ANSWER)]


def letter_token_ids(vocabulary: ItemVocabulary, count: int) -> list[int]:
    """The token of each of the first ``count`` letters.

    Raises:
        ValueError: if the tokenizer has no token of its own for one of them.
    """
    encoded = [vocabulary.encode_text(letter) for letter in LETTERS[:count]]
    if any(len(ids) != 1 for ids in encoded) or len({ids[0] for ids in encoded}) < count:
        raise ValueError("The tokenizer does not give each letter a token of its own: answer otherwise than by letter.")
    return [ids[0] for ids in encoded]
