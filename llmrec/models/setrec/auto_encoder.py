"""The semantic tokenizer: an auto-encoder from a text embedding to N tokens and back, without a codebook."""

from collections.abc import Sequence

from torch import Tensor, nn

from llmrec.item_tokenizer.linear_stack import linear_stack


class ItemAutoEncoder(nn.Module):
    """Linear layers with ReLU between them, mirrored (arXiv 2502.10833, section 3.1; the widths are the released ones).

    Args:
        text_dim: width of a text embedding.
        hidden_sizes: of the encoder, from the text on.
        num_tokens: N, 1 or more.
        token_dim: width of a token.
    """

    def __init__(self, text_dim: int, hidden_sizes: Sequence[int], num_tokens: int, token_dim: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        sizes = [text_dim, *hidden_sizes, num_tokens * token_dim]
        self.encoder = linear_stack(sizes)
        self.decoder = linear_stack(sizes[::-1])

    def encode(self, texts: Tensor) -> Tensor:
        """Text embeddings (..., text_dim) to tokens (..., num_tokens, token_dim)."""
        return self.encoder(texts).unflatten(-1, (self.num_tokens, -1))

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (..., num_tokens, token_dim) to reconstructed text embeddings (..., text_dim)."""
        return self.decoder(tokens.flatten(-2))
