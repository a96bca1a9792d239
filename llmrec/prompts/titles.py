"""Items by their titles: what stands for an item is text, and the answers are the titles of the catalogue."""

from functools import cached_property

import numpy as np

from llmrec.catalog import Catalog
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.trie import END, Trie
from llmrec.vocabulary import ItemVocabulary

#: Tokens of a title that are read and written, as in ULMRec's released code.
MAX_TITLE_TOKENS = 32
_TITLE_END = "\n"


class TitleRenderer(SegmentRenderer):
    """Renders an item segment as the item's title, a line of its own.

    The line's end tells a title from a longer one that begins like it. Items that share a title, or its first
    ``MAX_TITLE_TOKENS`` tokens, share a leaf of the trie: whoever writes the title recommends all of them, in the
    order of the catalogue.

    Raises:
        ValueError: if the tokenizer drops line breaks, as T5's does.
    """

    def __init__(self, catalog: Catalog, vocabulary: ItemVocabulary) -> None:
        super().__init__(catalog, vocabulary)
        end = vocabulary.encode_text(_TITLE_END)
        if not end:
            raise ValueError(
                "The tokenizer has no token for the end of a line, which tells where a title ends: answer with "
                "semantic IDs, or take a model whose tokenizer keeps line breaks (Qwen's and Llama's do)."
            )
        titles = [vocabulary.encode_text(" ".join(title.split()))[:MAX_TITLE_TOKENS] for title in catalog.titles]
        self._item_tokens = [[*title, *end] for title in titles]

    @property
    def content(self) -> list[str]:
        return ["titles", str(MAX_TITLE_TOKENS), *super().content, *self.catalog.titles]

    @cached_property
    def _used_tokens(self) -> np.ndarray:
        """Token ids that occur in titles, ascending: the trie's codes are their places."""
        return np.unique(np.concatenate([np.array(tokens) for tokens in self._item_tokens]))

    @cached_property
    def trie(self) -> Trie:
        """Of the titles' tokens."""
        longest = max(map(len, self._item_tokens))
        codes = np.full((len(self._item_tokens), longest), END, dtype=np.int64)
        for row, tokens in enumerate(self._item_tokens):
            codes[row, : len(tokens)] = np.searchsorted(self._used_tokens, tokens)
        return Trie.from_semantic_ids(codes)

    @property
    def code_token_ids(self) -> np.ndarray:
        return np.tile(self._used_tokens, (self.trie.num_codebooks, 1))
