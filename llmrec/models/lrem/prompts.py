"""Queries, thoughts and items as token ids: three control tokens, and user text that can never become one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from transformers import AddedToken, PreTrainedTokenizerBase

from llmrec.vocabulary import ItemVocabulary

THINK, END_THINK, EMBED = "<think>", "</think>", "<emb>"

#: The paper's cap on a thought (section 4.3), in training and in serving.
MAX_THOUGHT_TOKENS = 16

# Ours, like all of the wording: the paper shows its prompts in Chinese only
_SYSTEM = "You help people to find items of a catalogue."
_INSTRUCTION = "Write a few keywords that describe what is looked for and that the query does not contain.\n"
_QUERY_OPENING, _ITEM_OPENING, _ENDING = "Query: ", "Item: ", "\n"

_READ_COLUMNS = ["title", "brand", "categories", "description"]

#: Stands for the user's text while a chat template is filled in.
_PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"


class ReasoningTokens(NamedTuple):
    """Token ids of the three control tokens."""

    think: int
    end_think: int
    embed: int


class LremPrompts:
    """Token ids of everything that the model reads.

    A tokenizer with a chat template is asked through it, the query as the user's turn; any other one reads short lines.

    Args:
        tokenizer: that has the control tokens already (see ``add_to``).
        reasoning: whether queries are embedded behind a thought; False embeds them at once, as items are.
        max_thought_tokens: longer thoughts are cut.
        max_text_tokens: longer queries and items are cut.
        descriptions: whether items are read with their descriptions.

    Raises:
        ValueError: if the tokenizer lacks a control token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        reasoning: bool = True,
        max_thought_tokens: int = MAX_THOUGHT_TOKENS,
        max_text_tokens: int = 96,
        descriptions: bool = False,
    ) -> None:
        known = tokenizer.get_vocab()
        missing = [token for token in (THINK, END_THINK, EMBED) if token not in known]
        if missing:
            raise ValueError(f"The tokenizer has no token {missing[0]}: use LremPrompts.add_to, or an LREM checkpoint.")
        self.tokenizer = tokenizer
        self.reasoning = reasoning
        self.max_thought_tokens = max_thought_tokens
        self.max_text_tokens = max_text_tokens
        self.descriptions = descriptions
        self.tokens = ReasoningTokens(known[THINK], known[END_THINK], known[EMBED])
        self.vocabulary = ItemVocabulary(tokenizer, ())
        ends = (*self.tokens, tokenizer.eos_token_id, tokenizer.pad_token_id)
        #: token ids that end a thought
        self.end_token_ids = sorted({token_id for token_id in ends if token_id is not None})
        self._query_edges = self._edges(_SYSTEM, _INSTRUCTION + _QUERY_OPENING, _QUERY_OPENING)
        self._item_edges = self._edges(_SYSTEM, _ITEM_OPENING, _ITEM_OPENING)

    @staticmethod
    def add_to(tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Give ``tokenizer`` the control tokens that it lacks (in place); returns the ids of the new ones."""
        new = [token for token in (THINK, END_THINK, EMBED) if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in new])
        return tokenizer.convert_tokens_to_ids(new)

    @classmethod
    def from_options(cls, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> "LremPrompts":
        """Prompts as a checkpoint notes them.

        Raises:
            ValueError: if they were worded otherwise than this version words them.
        """
        names = ("reasoning", "max_thought_tokens", "max_text_tokens", "descriptions")
        prompts = cls(tokenizer, *(options[name] for name in names))
        if prompts.options["wording"] != options["wording"]:
            raise ValueError("This checkpoint was trained with other prompts than this version of llmrec has.")
        return prompts

    @property
    def options(self) -> dict[str, Any]:
        """How prompts are worded, as a checkpoint notes it."""
        return {
            "reasoning": self.reasoning,
            "max_thought_tokens": self.max_thought_tokens,
            "max_text_tokens": self.max_text_tokens,
            "descriptions": self.descriptions,
            "wording": [_SYSTEM, _INSTRUCTION, _QUERY_OPENING, _ITEM_OPENING, _ENDING],
        }

    def lines(self, items: pa.Table) -> list[str]:
        """What is read of each item: title, brand and categories, and the description where that is asked for.

        The paper reads titles only; the rest is ours, for catalogues whose titles leave it out.

        Args:
            items: table with the columns of ``schema.ITEMS``.
        """
        return [_line(row, self.descriptions) for row in items.select(_READ_COLUMNS).to_pylist()]

    def query(self, text: str) -> list[int]:
        """What the model goes on from, by a thought or, without reasoning, by the embedding token.

        Raises:
            ValueError: if there is no text.
        """
        return self._within(self._query_edges, text, "query")

    def item(self, text: str) -> list[int]:
        """What an item is embedded from: its line (see ``lines``) and the embedding token.

        Raises:
            ValueError: if there is no text.
        """
        return [*self._within(self._item_edges, text, "item"), self.tokens.embed]

    def thought(self, text: str) -> list[int]:
        """A thought as it should be written: opened, cut to ``max_thought_tokens``, closed, and the embedding token."""
        return self.closed(self.vocabulary.encode_text(text))

    def closed(self, thought: Sequence[int]) -> list[int]:
        """What stands behind a query once the model has thought: the thought up to its end or its cap, and the rest.

        Defined for whatever a model writes: an opening token at the start is dropped, the first control token ends the
        thought, and what it has not written itself is appended.
        """
        if not self.reasoning:
            return [self.tokens.embed]
        written = list(thought)
        if written[:1] == [self.tokens.think]:
            del written[0]
        ends = [place for place, token_id in enumerate(written) if token_id in self.end_token_ids]
        written = written[: min([*ends, self.max_thought_tokens])]
        return [self.tokens.think, *written, self.tokens.end_think, self.tokens.embed]

    def keywords(self, thought: Sequence[int]) -> str:
        """The words of a thought, without control tokens."""
        return self.tokenizer.decode([token for token in thought if token not in self.end_token_ids]).strip()

    def _within(self, edges: tuple[list[int], list[int]], text: str, what: str) -> list[int]:
        text = " ".join(text.split())
        if not text:
            raise ValueError(f"The {what} {text!r} is empty: give it at least one character that is no blank.")
        # what lies far behind the cut need not be encoded: hardly a token has more than 64 characters
        token_ids = self.vocabulary.encode_text(text[: 64 * self.max_text_tokens])
        return [*edges[0], *token_ids[: self.max_text_tokens], *edges[1]]

    def _edges(self, system: str, opening: str, plain_opening: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the user's text."""
        if self.tokenizer.chat_template is None:
            before, after = plain_opening, _ENDING
        else:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": opening + _PLACE}]
            options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
            before, _, after = self.tokenizer.apply_chat_template(messages, **options).partition(_PLACE)
        before_ids, after_ids = (
            self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)
        )
        return before_ids, after_ids


def _line(item: Mapping[str, Any], described: bool) -> str:
    brand = "" if item["brand"].lower() in item["title"].lower() else item["brand"]
    parts = [item["title"], brand, ", ".join(item["categories"]), item["description"] if described else ""]
    return " | ".join(" ".join(part.split()) for part in parts if part.strip())
