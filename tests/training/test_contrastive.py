"""InfoNCE against the formula, and gathered batches against one process that has them all."""

import pytest
import torch
from torch import distributed, multiprocessing

from llmrec.training.contrastive import gather_with_gradient, info_nce, relevant_elsewhere
from tests.recipes.recipe_process import free_port


def _vectors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, items = torch.randn(2, 4, 8, generator=generator).unbind()
    return torch.nn.functional.normalize(queries, dim=-1), torch.nn.functional.normalize(items, dim=-1)


def test_it_is_the_formula() -> None:
    queries, items = _vectors(0)
    expected = 0.0
    for row in range(4):
        exponentials = [(queries[row] @ items[column] / 0.05).exp() for column in range(4)]
        expected -= (exponentials[row] / sum(exponentials)).log() / 4
    torch.testing.assert_close(info_nce(queries, items, torch.arange(4), 0.05), expected)


def test_what_a_query_also_looks_for_is_no_negative_of_it() -> None:
    item_rows = torch.tensor([7, 3, 7, 5])
    relevant = torch.tensor([[7, 5], [3, -1], [7, -1]])
    excluded = relevant_elsewhere(item_rows, relevant, torch.arange(3))
    expected = [[False, False, True, True], [False, False, False, False], [True, False, False, False]]
    assert excluded.tolist() == expected
    queries, items = _vectors(1)
    scores = queries[:3] @ items.T / 0.1
    loss = info_nce(queries[:3], items, torch.arange(3), 0.1, excluded)
    kept = [scores[row][~excluded[row]].logsumexp(0) - scores[row, row] for row in range(3)]
    torch.testing.assert_close(loss, torch.stack(kept).mean())


def _gathered(rank: int, port: int, results: object) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    queries, items = _vectors(rank)
    items = items.clone().requires_grad_()
    loss = info_nce(queries, gather_with_gradient(items), torch.arange(4) + 4 * rank, 0.05)
    loss.backward()
    results[rank] = (loss.item(), items.grad.tolist())
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_each_others_items_and_send_gradients_back() -> None:
    with multiprocessing.get_context("fork").Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_gathered, (free_port(), results), nprocs=2)
        results = dict(results)
    both = [_vectors(0), _vectors(1)]
    items = torch.cat([items for _, items in both]).requires_grad_()
    losses = [info_nce(queries, items, torch.arange(4) + 4 * rank, 0.05) for rank, (queries, _) in enumerate(both)]
    sum(losses).backward()
    for rank in range(2):
        assert abs(results[rank][0] - losses[rank].item()) < 1e-6
        torch.testing.assert_close(torch.tensor(results[rank][1]), items.grad[4 * rank : 4 * rank + 4])
