"""TRL's chunked loss in tiles that fit where torch operations compute them, as on a CPU.

TRL projects 4,096 tokens on 32,768 vocabulary entries at a time. A Triton kernel works in place on such a tile; without
Triton torch operations hold about seven copies of it, 3.8 GB in float32, more than the loss was to save.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl.kernels import chunked_logprob

#: Tokens of a tile; with TRL's 32,768 vocabulary entries it is 34 MB in float32. Smaller ones are not faster.
_TOKENS = 256


@contextmanager
def small_tiles(device: torch.device) -> Iterator[None]:
    """Within it TRL's loss on ``device`` takes tiles of ``_TOKENS`` tokens, unless Triton computes them."""
    tokens = chunked_logprob.TOKEN_CHUNK_SIZE
    if not chunked_logprob._use_triton(device):
        chunked_logprob.TOKEN_CHUNK_SIZE = min(tokens, _TOKENS)
    try:
        yield
    finally:
        chunked_logprob.TOKEN_CHUNK_SIZE = tokens
