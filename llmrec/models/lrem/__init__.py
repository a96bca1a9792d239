"""LREM: a causal language model that writes keywords for a query and then embeds both (arXiv 2510.14321)."""

from llmrec.models.lrem.embedding import add_embeddings, embed_batch
from llmrec.models.lrem.prompts import LremPrompts, ReasoningTokens
from llmrec.models.lrem.searcher import LremSearcher

__all__ = ["LremPrompts", "LremSearcher", "ReasoningTokens", "add_embeddings", "embed_batch"]
