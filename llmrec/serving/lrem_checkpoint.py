"""A served checkpoint of LREM: texts in, embeddings and items out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformers import AutoConfig

from llmrec.catalog import Catalog
from llmrec.decoding.beam_search import DEFAULT_SCORES, ScoreKind
from llmrec.hub import Checkpoint
from llmrec.models.lrem import LremPrompts
from llmrec.models.lrem.catalog_embeddings import check_lines
from llmrec.schema import DataError
from llmrec.serving.engines.engine import Prompter
from llmrec.serving.served import ServedFiles


@dataclass(frozen=True)
class ServedLrem(ServedFiles):
    """An LREM checkpoint: it searches for queries, and recommends nothing.

    Args:
        name: last part of the folder's or the Hub's name.
        checkpoint: its files.
        prompts: worded as in training.
    """

    prompts: LremPrompts

    #: Prompts are token ids.
    reads_items: ClassVar[bool] = False
    #: Vectors are searched, without beams.
    num_beams: ClassVar[int] = 1
    scores: ClassVar[ScoreKind] = DEFAULT_SCORES
    #: Longer texts are cut.
    max_prompt_tokens: ClassVar[None] = None
    #: Queries are anybody's.
    users: ClassVar[None] = None
    is_encoder_decoder: ClassVar[bool] = False

    @classmethod
    def open(cls, name: str, checkpoint: Checkpoint) -> "ServedLrem":
        """Check that tokenizer, model, catalogue and embeddings belong together.

        Raises:
            FileNotFoundError: if there are no embeddings of the catalogue.
            ValueError: if they do not belong together.
        """
        config = AutoConfig.from_pretrained(checkpoint.folder).get_text_config()
        prompts = LremPrompts.from_options(checkpoint.tokenizer, checkpoint.prompts)
        if max(prompts.tokens) >= config.vocab_size:
            raise ValueError(
                f"{checkpoint.folder}: the tokenizer's control tokens go up to {max(prompts.tokens)}, but the model "
                f"has {config.vocab_size} rows. Tokenizer and weights are of different runs: save the checkpoint again."
            )
        found, needed = checkpoint.item_embeddings.shape, (len(checkpoint.catalog), config.hidden_size)
        if found != needed:
            raise ValueError(
                f"{checkpoint.folder}: the item embeddings have the shape {found}; the catalogue and the model need "
                f"{needed}. They are of different runs: make them with llmrec embed, or save the checkpoint again."
            )
        return cls(name, checkpoint, prompts)

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.checkpoint.item_embeddings.shape[1]

    def lines(self, catalog: Catalog) -> list[str]:
        """What the model reads of each item.

        Raises:
            DataError: if there is nothing to read of one.
        """
        lines = self.prompts.lines(catalog.items)
        check_lines(lines, catalog.item_ids)
        return lines

    def prompter(self, catalog: Catalog) -> Prompter:
        """A query after a history: the line of its latest item. It tries out a catalogue; clients send queries."""

        def prompt(history: Sequence[str], user_id: str | None = None) -> list[int]:  # noqa: ARG001 -- the interface's
            (line,) = self.prompts.lines(catalog.items.slice(catalog.item_index[history[-1]], 1))
            return self.prompts.query(line)

        return prompt

    def check_catalog(self, catalog: Catalog) -> None:
        """Refuse a catalog with semantic IDs, which is another method's.

        Raises:
            DataError: if it has them, or if there is nothing to read of an item.
        """
        if catalog.num_codebooks:
            raise DataError("The catalogue has semantic IDs, and this model has none: it is another method's.")
        self.lines(catalog)

    def is_cut(self, text: str) -> bool:
        """Whether ``text``, without repeated blanks, is longer than what the model is shown of it."""
        limit = self.prompts.max_text_tokens
        # a token takes a byte or more, and the prompts do not look beyond 64 characters for each
        if len(text.encode()) <= limit:
            return False
        return len(text) > 64 * limit or len(self.prompts.vocabulary.encode_text(text)) > limit
