"""Muon beside another optimizer, as one: the same steps as the two apart, and the same again after loading."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from llmrec.training.muon import CpuMuon, MuonWithRest, layer_matrices, orthogonalized
from tests.tiny import make_catalog, make_model


class Tied(nn.Module):
    """An embedding, a layer, and an output that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer, self.norm = nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def loss(self, seed: int) -> torch.Tensor:
        tokens = torch.randint(5, (6,), generator=torch.Generator().manual_seed(seed))
        logits = self.head(self.norm(self.layer(self.embedding(tokens))))
        return nn.functional.cross_entropy(logits, tokens.roll(-1))


def one_optimizer(model: Tied) -> MuonWithRest:
    rest = [model.embedding.weight, model.layer.bias, *model.norm.parameters()]
    return MuonWithRest(layer_matrices(model), AdamW(rest, lr=1e-2, weight_decay=0.1), lr=2e-2, weight_decay=0.1)


def train(model: Tied, step: Callable[[], object], seeds: range) -> None:
    for seed in seeds:
        model.zero_grad()
        model.loss(seed).backward()
        step()


def test_steps_are_those_of_the_two_apart() -> None:
    together, apart = Tied(), Tied()
    train(together, one_optimizer(together).step, range(4))
    muon = CpuMuon([apart.layer.weight], lr=2e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    rest = AdamW([apart.embedding.weight, apart.layer.bias, *apart.norm.parameters()], lr=1e-2, weight_decay=0.1)
    train(apart, lambda: (muon.step(), rest.step()), range(4))
    for (name, one), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_in_float32_the_step_is_torchs(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.empty(shape))
    theirs.data.copy_(ours.data)
    start = ours.detach().clone()
    options = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = CpuMuon([ours], **options), Muon([theirs], **options)
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # torch's rounds to bfloat16's 8 bits
    torch.testing.assert_close(ours - start, theirs - start, rtol=0.05, atol=0.005)


def test_orthogonalized_keeps_the_singular_vectors_and_brings_values_near_one() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(5, 8, dtype=torch.float32)
    group = CpuMuon([nn.Parameter(matrix)]).param_groups[0]
    found = orthogonalized(matrix, group["ns_coefficients"], group["ns_steps"], group["eps"])
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.T @ found @ right.T
    torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-4)
    assert ((core.diagonal() > 0.6) & (core.diagonal() < 1.3)).all()


def test_what_was_saved_goes_on_as_if_nothing_had_happened() -> None:
    model = Tied()
    optimizer = one_optimizer(model)
    train(model, optimizer.step, range(3))
    resumed = copy.deepcopy(model)
    saved = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer.step, range(3, 6))
    loaded = one_optimizer(resumed)
    loaded.load_state_dict(saved)
    train(resumed, loaded.step, range(3, 6))
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_schedule_sets_the_rates_of_both_even_after_loading() -> None:
    model = Tied()
    optimizer = one_optimizer(model)
    optimizer.load_state_dict(optimizer.state_dict())
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, optimizer.step, range(1))
    schedule.step()
    assert [group["lr"] for group in optimizer.muon.param_groups] == [1e-2]
    assert [group["lr"] for group in optimizer.rest.param_groups] == [5e-3]


def test_gradients_of_both_are_cleared() -> None:
    model = Tied()
    optimizer = one_optimizer(model)
    model.loss(0).backward()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_layers_matrices_are_no_embeddings_and_no_norms() -> None:
    model = make_model(make_catalog(4, (2, 2)))[0]
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # an output head of its own
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {names[id(weight)] for weight in layer_matrices(model)}
    assert "model.layers.0.self_attn.q_proj.weight" in found
    assert all(name.endswith("_proj.weight") for name in found)
    model.model.layers[0].mlp.up_proj.weight.requires_grad = False
    assert len(layer_matrices(model)) == len(found) - 1
