"""Users as semantic IDs: what they wrote and what they chose, embedded, fused and quantized like items (ULMRec)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from llmrec.atomic import atomic_path
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.tokenizer import ItemTokenizer
from llmrec.schema import DataError

_EMBEDDER_FILE = "user_embedder.safetensors"
_ARRAYS = ("item_texts", "item_embeddings", "to_collaborative")
#: Softmax temperature of the attention, whose scores are cosines; ours.
_TEMPERATURE = 0.1
#: Weight of the ridge against a sum of squares over the catalogue; ours.
_RIDGE = 1.0


@dataclass(frozen=True)
class UserEmbedder:
    """One vector for a user: the mean of the reviews, and what they attend to among the items of the history.

    The paper fuses a user-ID embedding into the review embedding by attention, and publishes no formula (arXiv
    2412.05543; docs/methods/ulmrec.md). Ours has nothing to train: the mean review, taken into the space of a
    sequential recommender by ridge regression over the items, is the query; the recommender's embeddings of the
    history's items are keys and values; the query is added to the answer, and both halves are standardised.

    Args:
        item_texts: text embeddings of the items, by the encoder of the reviews: float32 (num_items, text_dim).
        item_embeddings: the sequential recommender's: float32 (num_items, dim).
        to_collaborative: text to collaborative space: float32 (text_dim, dim).
    """

    item_texts: np.ndarray
    item_embeddings: np.ndarray
    to_collaborative: np.ndarray

    @classmethod
    def fit(
        cls, item_texts: np.ndarray, item_embeddings: np.ndarray, trained: np.ndarray | None = None
    ) -> "UserEmbedder":
        """Find the way from text to collaborative space.

        Args:
            item_texts: float32 (num_items, text_dim).
            item_embeddings: float32 (num_items, dim).
            trained: bool (num_items,): the items whose embeddings were learnt, which it is found from; None for all.
        """
        texts, embeddings = _unit(item_texts), _unit(item_embeddings)
        rows = slice(None) if trained is None else trained
        gram = texts[rows].T @ texts[rows] + _RIDGE * np.eye(texts.shape[1], dtype=np.float32)
        return cls(texts, embeddings, np.linalg.solve(gram, texts[rows].T @ embeddings[rows]).astype(np.float32))

    def __call__(
        self, histories: Sequence[Sequence[int]], reviews: Sequence[np.ndarray | None] | None = None
    ) -> np.ndarray:
        """Embed users.

        Args:
            histories: item indices of each user, one or more.
            reviews: embeddings of what each user wrote, float32 (num_reviews, text_dim); None for a user who wrote
                nothing, whose items' texts then stand for it.

        Returns:
            float32 of shape (num_users, text_dim + dim).

        Raises:
            DataError: if a history is empty.
        """
        given = [None] * len(histories) if reviews is None else reviews
        return np.stack([self._embed(*user) for user in zip(histories, given, strict=True)])

    def _embed(self, history: Sequence[int], reviews: np.ndarray | None) -> np.ndarray:
        if not len(history):
            raise DataError("A user without any item in the history has nothing to be embedded from.")
        rows = np.asarray(history)
        written = self.item_texts[rows] if reviews is None else _unit(reviews)
        review = written.mean(axis=0)
        query = _unit(review @ self.to_collaborative)
        scores = self.item_embeddings[rows] @ query / _TEMPERATURE
        weights = np.exp(scores - scores.max())
        attended = weights / weights.sum() @ self.item_embeddings[rows]
        return np.concatenate([_standardised(review), _standardised(query + attended)])


class UserIndex:
    """A unique semantic ID for every user, and one for users who come later.

    Args:
        tokenizer: over user ids in place of item ids.
        embedder: makes what it quantizes.
    """

    def __init__(self, tokenizer: ItemTokenizer, embedder: UserEmbedder) -> None:
        self.tokenizer = tokenizer
        self.embedder = embedder
        self._row = {user_id: row for row, user_id in enumerate(tokenizer.item_ids)}

    @classmethod
    def fit(
        cls,
        user_ids: Sequence[str],
        histories: Sequence[Sequence[int]],
        reviews: Sequence[np.ndarray | None] | None,
        embedder: UserEmbedder,
        config: ItemTokenizerConfig,
    ) -> "UserIndex":
        """Embed and quantize.

        Args:
            user_ids: distinct.
            histories: item indices of each user's training interactions.
            reviews: as for ``UserEmbedder``, of training interactions only.
            embedder: of the catalogue.
            config: of the quantizer.
        """
        return cls(ItemTokenizer.fit(user_ids, embedder(histories, reviews), config), embedder)

    @property
    def user_ids(self) -> list[str]:
        return self.tokenizer.item_ids

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.tokenizer.codebook_sizes

    @property
    def fingerprint(self) -> str:
        """16 hex digits over users and their indices."""
        return self.tokenizer.fingerprint

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._row

    def codes(self, user_id: str) -> tuple[int, ...]:
        """The index of a user.

        Raises:
            DataError: if the user has none.
        """
        if user_id not in self._row:
            raise DataError(f"The user {user_id!r} has no index: make one from a history, with nearest or extend.")
        return tuple(self.tokenizer.semantic_ids[self._row[user_id]].tolist())

    def codes_of(self, user_id: str | None, history: Sequence[int]) -> tuple[int, ...]:
        """The index of a user, or where there is none, that of a user who is passing through with ``history``.

        Returns:
            Codes; none for somebody of whom nothing is known.
        """
        if user_id is not None and user_id in self:
            return self.codes(user_id)
        return tuple(self.nearest([history])[0].tolist()) if len(history) else ()

    def nearest(
        self, histories: Sequence[Sequence[int]], reviews: Sequence[np.ndarray | None] | None = None
    ) -> np.ndarray:
        """Indices for users who are passing through: the nearest codes, which some other user may have too.

        Returns:
            int32 of shape (num_users, num_codebooks); a level that only tells users apart holds 0.
        """
        codes = self.tokenizer.encode(self.embedder(histories, reviews))
        return np.pad(codes, ((0, 0), (0, len(self.codebook_sizes) - codes.shape[1])))

    def extend(
        self,
        user_ids: Sequence[str],
        histories: Sequence[Sequence[int]],
        reviews: Sequence[np.ndarray | None] | None = None,
    ) -> np.ndarray:
        """Give users who come to stay indices of their own; no other index changes.

        Returns:
            int32 of shape (num_users, num_codebooks).

        Raises:
            DataError: if a user is known, or there is no index left.
        """
        start = len(self.user_ids)
        codes = self.tokenizer.extend(user_ids, self.embedder(histories, reviews))
        self._row |= {user_id: start + place for place, user_id in enumerate(user_ids)}
        return codes

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and ``user_embedder.safetensors`` into ``folder``."""
        self.tokenizer.save(folder)
        with atomic_path(Path(folder) / _EMBEDDER_FILE) as temporary:
            save_file({name: np.ascontiguousarray(getattr(self.embedder, name)) for name in _ARRAYS}, temporary)

    @classmethod
    def load(cls, folder: str | Path) -> "UserIndex":
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: if ``folder`` holds none.
        """
        path = Path(folder) / _EMBEDDER_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {_EMBEDDER_FILE}: recipes/ulmrec.py makes user indices.")
        return cls(ItemTokenizer.load(folder, "cpu"), UserEmbedder(**load_file(path)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


def _standardised(vector: np.ndarray) -> np.ndarray:
    """Mean 0 and length 1."""
    return _unit(vector - vector.mean())
