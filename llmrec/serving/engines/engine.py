"""What the server asks of an engine, whichever runtime is under it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from llmrec.catalog import Catalog
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import Rules
from llmrec.decoding.trace import TracedBeam


@dataclass(frozen=True)
class RankRequest:
    """One list of items to rank.

    Args:
        prompt: token ids, one or more; or the items of a history, where the model reads items.
        num_beams: search width.
        k: list length, at most ``num_beams``.
        rules: what may be recommended.
        max_per_first_code: at most so many items whose semantic IDs start with the same code.
        trace: whether to return the beam tree too.
        history: the items that the prompt was made from, all of them, oldest first: what the checkpoint's search mixes
            into the ranking reads them. Empty: the model ranks alone.
    """

    prompt: Sequence[int]
    num_beams: int
    k: int
    rules: Rules | None = None
    max_per_first_code: int | None = None
    trace: bool = False
    history: Sequence[int] = ()


@dataclass(frozen=True)
class RankedList:
    """The answer to a ``RankRequest``.

    Attributes:
        items: item indices, best first, all different; fewer than k where rules or beams left no more.
        scores: log-probability of each item's semantic ID, or the model's own score where items have none.
        code_log_probs: for each item, the log-probability of each of its codes; they sum to its score.
        levels: for each level of the semantic IDs, the beams that lived on and those that were cut there; None unless
            the request asked for a trace.
        thought: token ids of the keywords that were searched with; None where the model does not think.
    """

    items: list[int]
    scores: list[float]
    code_log_probs: list[list[float]]
    levels: list[list[TracedBeam]] | None = None
    thought: list[int] | None = None


@dataclass(frozen=True)
class EmbedRequest:
    """A text to embed.

    Args:
        prompt: token ids: of a query up to where its thought begins, or all of an item's, the embedding token included.
        is_query: whether the model thinks before it embeds.
    """

    prompt: Sequence[int]
    is_query: bool


@dataclass(frozen=True)
class Embedded:
    """The answer to an ``EmbedRequest``.

    Attributes:
        vector: float32 of shape (width,), of length 1.
        thought: token ids of the keywords; empty for an item.
    """

    vector: np.ndarray
    thought: list[int]


@dataclass(frozen=True)
class TextRequest:
    """Free text to write: nothing constrains it to the catalogue.

    Args:
        prompt: token ids, one or more.
        max_tokens: at most so many are written.
        temperature: 0 is greedy.
        top_p: nucleus.
        seed: of the sampling; None draws one.
        stop: strings that end the text and are not part of it.
    """

    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()

    def check_room(self, positions: int) -> None:
        """Refuse what is longer than a model has ``positions`` for.

        Raises:
            ValueError: if prompt and text together do not fit.
        """
        if len(self.prompt) + self.max_tokens > positions:
            raise ValueError(
                f"The prompt has {len(self.prompt)} tokens and max_tokens is {self.max_tokens}; the model has "
                f"{positions} positions for both. Shorten one of them."
            )


@dataclass(frozen=True)
class TextChunk:
    """A piece of a text as it is written.

    Attributes:
        text: what follows the pieces before; may be empty.
        num_tokens: tokens written since the piece before.
        finish_reason: None until the last piece; ``stop`` for an end token or stop string, ``length`` for max_tokens.
    """

    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"] | None = None


class Prompter(Protocol):
    """What a ``RankRequest`` has as its prompt."""

    def __call__(self, history: Sequence[str], user_id: str | None = None) -> list[int]:
        """For a history of item ids, oldest first, and whose it is."""
        ...


@dataclass(frozen=True)
class LoadedCatalog:
    """A catalogue ready to be searched; engines keep what they need of it in subclasses.

    Requests hold on to the one they started with, so that a reload never mixes two.

    Args:
        catalog: the items.
        prompt_tokens: from a history to a prompt.
        trie: their semantic IDs, as the engine searches them; None where they have none.
    """

    catalog: Catalog
    prompt_tokens: Prompter
    trie: DeviceTrie | None


class Engine(ABC):
    """A model behind an interface of coroutines. One event loop owns it.

    Attributes:
        name: ``transformers`` or ``vllm``.
    """

    name: str

    @abstractmethod
    async def start(self) -> None:
        """Load the model."""

    @abstractmethod
    async def load(self, catalog: Catalog, folder: Path) -> LoadedCatalog:
        """Get ``catalog``, which was read from ``folder``, ready beside those that are in use.

        Raises:
            DataError, ValueError: if model and catalogue do not belong together.
        """

    @abstractmethod
    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        """Rank items of ``loaded``.

        Raises:
            ValueError: if the request is not one that the search can answer; the message is fit for the client.
        """

    @abstractmethod
    def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:
        """Write free text. Closing the iterator early stops the work."""

    @abstractmethod
    async def check(self) -> None:
        """Return where the engine can answer.

        Raises:
            Exception: whatever stopped it for good.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what is in flight and release the model."""


class EmbeddingEngine(Engine):
    """An engine whose model embeds texts, and ranks items by their embeddings."""

    @abstractmethod
    async def embed(self, request: EmbedRequest) -> Embedded:
        """Embed one text."""
