"""TRL's loss is the same in smaller tiles; a TRL that no longer reads the tile's size fails here."""

import pytest
import torch
from trl.kernels import chunked_logprob

from llmrec.training.loss_tiles import _TOKENS, small_tiles

CPU = torch.device("cpu")


def _loss_and_gradients(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    log_probs, entropy, _, _, is_top1 = chunked_logprob.ChunkedLogProbFunction.apply(
        *leaves, None, targets, 1.0, 40, None, 1.0, ("log_probs", "entropy", "is_top1")
    )
    return [log_probs, entropy, is_top1.float(), *torch.autograd.grad(-log_probs.sum(), leaves)]


def test_tiles_are_small_and_the_loss_is_the_same(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2 * _TOKENS + 7, 8, generator=generator), torch.randn(60, 8, generator=generator)
    targets = torch.randint(0, 60, (len(hidden),), generator=generator)
    expected = _loss_and_gradients(hidden, weight, targets)
    sizes = []
    forward_tile, backward_tile = chunked_logprob._forward_tile, chunked_logprob._backward_tile
    for name, fold in (("_forward_tile", forward_tile), ("_backward_tile", backward_tile)):

        def counted(tile: torch.Tensor, *arguments: object, fold=fold, **options: object) -> None:
            sizes.append(len(tile))
            fold(tile, *arguments, **options)

        monkeypatch.setattr(chunked_logprob, name, counted)
    with small_tiles(CPU):
        actual = _loss_and_gradients(hidden, weight, targets)
    assert sorted(set(sizes)) == [7, _TOKENS]
    for mine, whole in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, whole)


def test_the_tile_of_others_stays_as_it_was() -> None:
    before = chunked_logprob.TOKEN_CHUNK_SIZE
    with pytest.raises(ValueError, match="stop"), small_tiles(CPU):
        raise ValueError("stop")
    assert before == chunked_logprob.TOKEN_CHUNK_SIZE > _TOKENS
