"""Keywords as a chain of thought: what a query asks for without saying so (LREM, arXiv 2510.14321).

The paper's rules: keywords only, no duplicates, nothing the query already says, no prohibited words, and no other brand
where the query names one.
"""

import re
from collections.abc import Collection, Iterable, Sequence

#: Words that tell nothing by themselves.
FUNCTION_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "is", "it", "my", "of", "on", "or", "the", "to", "with")
)
_WORD = re.compile(r"\w+")
_EDGES = " \t\r\n,;:.!?\"'"
_SEPARATOR = ", "


def words_of(text: str) -> list[str]:
    """The words of a text in order, repeats included: runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def clean_keywords(
    query: str, keywords: Iterable[str], prohibited: Collection[str] = (), brands: Collection[str] = ()
) -> tuple[str, ...]:
    """The keywords that add something to a query, in their order.

    Args:
        query: what was searched for.
        keywords: candidates; commas and white space at their ends are stripped, commas inside become blanks.
        prohibited: words that no keyword may hold, in any case.
        brands: all brands. Where the query names one or more of them, keywords that name another go.

    Returns:
        Keywords without empty ones, those that repeat an earlier one but for case, and those that share a word with the
        query.
    """
    said, banned = set(words_of(query)), {word for text in prohibited for word in words_of(text)}
    every_brand = [parts for brand in brands if (parts := tuple(words_of(brand)))]
    named = [parts for parts in every_brand if _holds(words_of(query), parts)]
    other = [parts for parts in every_brand if parts not in named] if named else []
    kept: dict[str, str] = {}
    for keyword in keywords:
        text = " ".join(keyword.replace(",", " ").split()).strip(_EDGES)
        words = words_of(text)
        if not words or said.intersection(words) or banned.intersection(words):
            continue
        if any(_holds(words, brand) for brand in other):
            continue
        kept.setdefault(" ".join(words), text)
    return tuple(kept.values())


def join_keywords(keywords: Iterable[str]) -> str:
    """The chain of thought as a text: keywords with commas between them."""
    return _SEPARATOR.join(keywords)


def split_keywords(text: str) -> tuple[str, ...]:
    """The keywords of a text such as ``join_keywords`` makes; empty ones are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _holds(words: Sequence[str], part: tuple[str, ...]) -> bool:
    """Whether ``part`` stands in ``words`` as a run."""
    return any(tuple(words[start : start + len(part)]) == part for start in range(len(words) - len(part) + 1))
