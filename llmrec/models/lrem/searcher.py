"""Search with an LREM: think, embed, and take the nearest items."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from llmrec.models.lrem.embedding import embed_batch
from llmrec.models.lrem.prompts import LremPrompts
from llmrec.models.lrem.thinking import think
from llmrec.vector_index import VectorIndex

#: What stands where the thought belongs: the model's own, nothing, or the query itself.
Thoughts = Literal["model", "empty", "query"]


class LremSearcher:
    """Finds items for queries.

    Args:
        prompts: of the model.
        lines: of the catalogue's items (``LremPrompts.lines``).
        batch_size: sequences that the model reads at a time.
    """

    def __init__(self, prompts: LremPrompts, lines: Sequence[str], batch_size: int) -> None:
        self.prompts = prompts
        self.lines = lines
        self.batch_size = batch_size

    def embed_items(self, model: PreTrainedModel) -> np.ndarray:
        """Embeddings of the catalogue: float32 of shape (num_items, hidden size)."""
        return embed_sequences(model, [self.prompts.item(line) for line in self.lines], self.batch_size)

    def write_thoughts(
        self, model: PreTrainedModel, queries: Sequence[str], thoughts: Thoughts = "model", temperature: float = 0.0
    ) -> list[list[int]]:
        """Token ids of each query's thought, without control tokens."""
        if not self.prompts.reasoning or thoughts == "empty":
            return [[] for _ in queries]
        if thoughts == "query":
            return [self.prompts.vocabulary.encode_text(query) for query in queries]
        asked = [self.prompts.query(query) for query in queries]
        return think(model, self.prompts, asked, self.batch_size, temperature)

    def embed_queries(
        self, model: PreTrainedModel, queries: Sequence[str], thoughts: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Embeddings of queries behind their thoughts: float32 of shape (num_queries, hidden size)."""
        pairs = zip(queries, thoughts, strict=True)
        sequences = [[*self.prompts.query(query), *self.prompts.closed(thought)] for query, thought in pairs]
        return embed_sequences(model, sequences, self.batch_size)

    def search(
        self,
        model: PreTrainedModel,
        queries: Sequence[str],
        k: int,
        thoughts: Thoughts = "model",
        index: VectorIndex | None = None,
        thoughts_of: Sequence[str] | None = None,
    ) -> np.ndarray:
        """The items nearest to each query, best first.

        Args:
            model: causal, in evaluation mode.
            queries: texts, none of them empty.
            k: list length.
            thoughts: what stands before the embedding token.
            index: of the catalogue's embeddings; made if it is None.
            thoughts_of: for each query another one, whose thought it gets; None for its own.

        Returns:
            Item indices: int64 of shape (num_queries, k), -1 for empty places.
        """
        index = index or VectorIndex(self.embed_items(model))
        written = self.write_thoughts(model, thoughts_of or queries, thoughts)
        return index.search(self.embed_queries(model, queries, written), k)[0]


@torch.no_grad()
def embed_sequences(model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    """Embeddings at the last token of each sequence: float32 of shape (num_sequences, hidden size)."""
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    vectors = np.zeros((len(sequences), model.config.get_text_config().hidden_size), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        input_ids, lengths = padded([sequences[row] for row in rows])
        vectors[rows] = embed_batch(model, input_ids.to(model.device), lengths.to(model.device))[0].cpu().numpy()
    return vectors


def padded(sequences: Sequence[Sequence[int]], padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences as one tensor (num_sequences, longest), filled up on the right, and their lengths (num_sequences,)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    table = torch.full((len(sequences), int(lengths.max())), padding)
    for row, sequence in enumerate(sequences):
        table[row, : len(sequence)] = torch.tensor(sequence)
    return table, lengths
