"""Typed segments to token ids: the one place where item tokens come from."""

from collections.abc import Iterable
from functools import cached_property, lru_cache

import numpy as np

from llmrec.catalog import Catalog
from llmrec.prompts.segments import Segment
from llmrec.schema import DataError
from llmrec.trie import Trie
from llmrec.vocabulary import ItemVocabulary, code_token


class SegmentRenderer:
    """Encodes segments with one catalog and one vocabulary.

    A text segment becomes text tokens whatever it spells; only an item segment becomes item tokens. Neighbouring text
    segments are joined before encoding, so that a title in a sentence is tokenized as the sentence would be.

    A user segment becomes the tokens of the user's codes where the vocabulary has such; else its codes are spelt out,
    as text (`` <a_71> <b_254>``, which is how ULMRec's released checkpoint reads them).
    """

    def __init__(self, catalog: Catalog, vocabulary: ItemVocabulary) -> None:
        self.catalog = catalog
        self.vocabulary = vocabulary
        self._item_tokens = vocabulary.item_token_ids(catalog.semantic_ids).tolist()
        self._encode_text = lru_cache(maxsize=100_000)(vocabulary.encode_text)

    def __reduce__(self) -> tuple[type["SegmentRenderer"], tuple[Catalog, ItemVocabulary]]:
        return type(self), (self.catalog, self.vocabulary)  # the cache of texts stays behind

    @cached_property
    def trie(self) -> Trie:
        """Of what stands for the items: their semantic IDs."""
        return Trie.from_semantic_ids(self.catalog.semantic_ids)

    @property
    def code_token_ids(self) -> np.ndarray:
        """Token id of each of the trie's codes, as ``DeviceTrie`` takes them."""
        return self.vocabulary.code_token_ids

    @property
    def content(self) -> list[str]:
        """What decides how segments become token ids, for the hash of what they became."""
        return [self.catalog.fingerprint, self.vocabulary.tokenizer.backend_tokenizer.to_str()]

    @property
    def eos_token_id(self) -> int:
        return self.vocabulary.tokenizer.eos_token_id

    def item_tokens(self, item_id: str) -> list[int]:
        """Token ids of one item's semantic ID, one per codebook.

        Raises:
            DataError: if the catalog has no such item.
        """
        return self._item_tokens[self.catalog.rows_of([item_id])[0]]

    def prompt_tokens(self, segments: Iterable[Segment], is_encoder_decoder: bool) -> list[int]:
        """Token ids of a prompt; an encoder's input ends with the end token, as in training."""
        tokens = self(segments)
        return [*tokens, self.eos_token_id] if is_encoder_decoder else tokens

    def __call__(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids of ``segments``, in order, without any beginning or end token."""
        token_ids: list[int] = []
        text = ""
        for segment in segments:
            if segment.kind == "text":
                text += segment.value
            elif segment.kind == "user" and not self.vocabulary.user_codebook_sizes:
                text += _spelt(segment.value)
            elif segment.kind in ("item", "user"):
                token_ids += self._encode_text(text) if text else []
                token_ids += (self.item_tokens if segment.kind == "item" else self._user_tokens)(segment.value)
                text = ""
            else:
                raise DataError(f"A segment is of kind {segment.kind!r}; allowed are 'text', 'item' and 'user'.")
        return token_ids + (self._encode_text(text) if text else [])

    def _user_tokens(self, codes: str) -> list[int]:
        return self.vocabulary.user_tokens([int(code) for code in codes.split()])


def _spelt(codes: str) -> str:
    return "".join(f" {code_token(level, int(code))}" for level, code in enumerate(codes.split()))
