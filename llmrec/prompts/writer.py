"""Who writes the texts that no dataset has: what a user looked for, and what a user likes.

LC-Rec had GPT-3.5 write them (arXiv 2311.09049, section III-C). Here a writer is any object with the two methods of
``Writer``: ``DeterministicWriter`` below needs nothing but the data, ``llmrec.prompts.openai_writer`` asks a language
model. A writer is only ever given training interactions: see ``llmrec.prompts.lcrec_rows``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

from llmrec.prompts.item_text import ItemText, shortened

_EXCERPT_CHARS = 160
_RECENT_ITEMS = 3


class WriterRequest(NamedTuple):
    """What a writer is told about one user.

    Attributes:
        user_id: for error messages; not part of any text.
        history: the items before the last training item, oldest first, the latest 20 of them.
        target: the last training item.
        review: what the user wrote about ``target``; "" where there is none.
    """

    user_id: str
    history: tuple[ItemText, ...]
    target: ItemText
    review: str


class Intentions(NamedTuple):
    """What the user looked for before finding the target: told from their tastes, and by the item's features."""

    user_intention: str
    item_intention: str


class Preferences(NamedTuple):
    """What the user likes; the target is not known to it."""

    overall_preference: str
    long_term_preference: str
    short_term_preference: str


class Writer(Protocol):
    """Writes texts about users, one answer for each request, in order, as they become ready."""

    @property
    def name(self) -> str:
        """Recorded in the data: who wrote it."""
        ...

    def intentions(self, requests: Iterable[WriterRequest]) -> Iterator[Intentions]:
        """The wish that ended in each request's target."""
        ...

    def preferences(self, requests: Iterable[WriterRequest]) -> Iterator[Preferences]:
        """The taste that shows in each request's history. ``target`` and ``review`` must not be used."""
        ...


class DeterministicWriter:
    """Builds texts from titles, categories (or brands, where there are none) and reviews, with no language model.

    A phrasing is picked by a hash of the user id, so that the same data gives the same texts everywhere.
    """

    name = "deterministic"

    def intentions(self, requests: Iterable[WriterRequest]) -> Iterator[Intentions]:
        for request in requests:
            yield Intentions(_user_intention(request), _item_intention(request))

    def preferences(self, requests: Iterable[WriterRequest]) -> Iterator[Preferences]:
        for request in requests:
            yield Preferences(_overall(request), _long_term(request), _short_term(request))


def _user_intention(request: WriterRequest) -> str:
    taste = _listed(_terms(request.history, 2))
    opening = _pick(
        request.user_id,
        f"I usually go for {taste}, most recently {_quoted(request.history[-1:])}.",
        f"My last find was {_quoted(request.history[-1:])}, and I tend to like {taste}.",
        f"As someone who is into {taste}, I would like a change after {_quoted(request.history[-1:])}.",
    )
    if request.review:
        return f"{opening} What matters to me now: {_sentence(_excerpt(request.review))}"
    wanted = _listed(_terms([request.target], 2, titles=False) or _title_words(request.target))
    return f"{opening} Now I am after {_sentence(wanted)}"


def _item_intention(request: WriterRequest) -> str:
    target = request.target
    features = _listed(_terms([target], 3, titles=False))
    by = f" by {target.brand}" if target.brand and target.brand != features else ""
    about = _listed(_title_words(target))
    if features:
        opening = _pick(
            request.user_id,
            f"Looking for {features}{by}, with {about} in the name.",
            f"It should be {features}{by}, something like {about}.",
            f"I want {features}{by}; I remember {about}.",
        )
    else:
        opening = _pick(request.user_id, f"Looking for {about}{by}.", f"It has to do with {about}{by}.")
    return f"{opening} {_sentence(_excerpt(request.review))}" if request.review else opening


def _overall(request: WriterRequest) -> str:
    taste, example = _listed(_terms(request.history, 3)), _quoted(request.history[-2:])
    return _pick(
        request.user_id,
        f"This user mostly chooses {taste}, for example {example}.",
        f"On the whole the taste runs to {taste}; {example} shows it.",
        f"Fond of {taste}, as {example} tells.",
    )


def _long_term(request: WriterRequest) -> str:
    older = request.history[: max(1, len(request.history) - _RECENT_ITEMS)]
    taste = _listed(_terms(older, 3))
    return _pick(
        request.user_id,
        f"Over time this user has kept coming back to {taste}.",
        f"A lasting interest in {taste}, ever since {_quoted(older[:1])}.",
        f"For as long as we know this user, it has been {taste}.",
    )


def _short_term(request: WriterRequest) -> str:
    recent = request.history[-_RECENT_ITEMS:]
    taste = _listed(_terms(recent, 2))
    return _pick(
        request.user_id,
        f"Lately it has been {taste}, with {_quoted(recent)}.",
        f"The latest choices, {_quoted(recent)}, point to {taste}.",
        f"At the moment in the mood for {taste}, after {_quoted(recent[-1:])}.",
    )


def _terms(items: Sequence[ItemText], count: int, titles: bool = True) -> list[str]:
    """The most frequent categories of ``items``, else their brands, else (with ``titles``) the latest titles."""
    for names in (
        [name for item in items for name in item.categories],
        [item.brand for item in items if item.brand],
    ):
        if names:
            return [name for name, _ in Counter(names).most_common(count)]
    return [f'"{item.title}"' for item in items[-count:]] if titles else []


def _title_words(item: ItemText) -> list[str]:
    words = [word.strip("()[]\"'.,:;") for word in item.title.split()]
    telling = [word for word in words if len(word) > 3 and not word.isdigit()]
    return telling[:3] or [item.title]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in [", ".join(names[:-1]), *names[-1:]] if part)


def _quoted(items: Sequence[ItemText]) -> str:
    return _listed([f'"{item.title}"' for item in items])


def _excerpt(review: str) -> str:
    """The review's first sentence, or its first words where it has none."""
    first = shortened(review).split(". ")[0]
    return shortened(first, _EXCERPT_CHARS)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _pick(user_id: str, *phrasings: str) -> str:
    digest = blake2b(f"{user_id}/{phrasings[0][:8]}".encode(), digest_size=4).digest()
    return phrasings[int.from_bytes(digest, "big") % len(phrasings)]
