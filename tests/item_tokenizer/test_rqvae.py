"""The RQ-VAE's loss, gradients and training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmrec.item_tokenizer import ItemTokenizer, ItemTokenizerConfig
from llmrec.item_tokenizer.collisions import collision_rate
from llmrec.item_tokenizer.rqvae import RQVAE
from llmrec.item_tokenizer.rqvae_training import _linear_schedule, _restart_dead_codes, train_rqvae
from tests.item_tokenizer.conftest import item_ids

CPU = torch.device("cpu")


@pytest.fixture
def config():
    return ItemTokenizerConfig(
        quantizer="rqvae",
        num_codebooks=3,
        codebook_size=8,
        hidden_sizes=(16,),
        latent_dim=6,
        epochs=100,
        batch_size=64,
        eval_every=25,
        device="cpu",
    )


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    model = RQVAE(config, 12)
    torch.nn.init.normal_(model.codebooks, std=0.3)
    return model


def test_loss_is_the_papers(model, config, embeddings):
    """Recomputed level by level from the codes it chose, beta = 0.25, mean over levels."""
    x = torch.from_numpy(embeddings[:20])
    output = model(x)
    residual, level_losses, total = model.encoder(x), [], 0
    for level in range(config.num_codebooks):
        quantized = model.codebooks[level][output.codes[:, level]]
        level_losses.append((1 + config.beta) * (quantized - residual).square().mean())
        residual, total = residual - quantized, total + quantized
    reconstruction = (model.decoder(total) - x).square().mean()
    torch.testing.assert_close(output.reconstruction_loss, reconstruction)
    torch.testing.assert_close(output.quantization_loss, sum(level_losses) / config.num_codebooks)
    torch.testing.assert_close(output.loss, output.reconstruction_loss + output.quantization_loss)


def test_gradients_pass_straight_through_the_codes(model, embeddings):
    """The encoder gets the decoder's gradient as if nothing had been quantized, and codes get none from it."""
    x = torch.from_numpy(embeddings[:20])
    latents = model.encoder(x)
    output = model(x)
    quantized = model.quantized_latents(output.codes).requires_grad_()
    functional.mse_loss(model.decoder(quantized), x).backward()
    expected = torch.autograd.grad(latents, list(model.encoder.parameters()), quantized.grad)
    model.zero_grad()
    output.reconstruction_loss.backward()
    for parameter, gradient in zip(model.encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert model.codebooks.grad is None


def test_codes_learn_from_their_own_level_only(model, config, embeddings):
    """A code's gradient is that of mse(code, stopped residual) / levels."""
    x = torch.from_numpy(embeddings[:20])
    output = model(x)
    output.quantization_loss.backward()
    residual = model.encoder(x).detach()
    for level in range(config.num_codebooks):
        book = model.codebooks[level].detach().clone().requires_grad_()
        quantized = book[output.codes[:, level]]
        (functional.mse_loss(quantized, residual) / config.num_codebooks).backward()
        torch.testing.assert_close(model.codebooks.grad[level], book.grad)
        residual = residual - quantized.detach()


def test_only_the_last_level_is_uniform_in_training(model, embeddings):
    x = torch.from_numpy(embeddings)
    trained, nearest = model(x).codes, model.nearest_codes(x)
    assert (trained[:, :-1] == nearest[:, :-1]).all()
    assert (trained[:, -1] != nearest[:, -1]).any()
    assert len(trained[:, -1].unique()) >= len(nearest[:, -1].unique())


@pytest.mark.parametrize(
    ("dim", "hidden"), [(4096, [2048, 1024, 512, 256, 128, 64]), (384, [256, 128, 64]), (64, [64]), (16, [])]
)
def test_default_widths_follow_the_input(dim, hidden):
    model = RQVAE(ItemTokenizerConfig(num_codebooks=1, codebook_size=2), dim)
    widths = [layer.out_features for layer in model.encoder if hasattr(layer, "out_features")]
    assert widths == [*hidden, 32]
    assert [layer.out_features for layer in model.decoder if hasattr(layer, "out_features")] == [*hidden[::-1], dim]


def test_schedule_warms_up_and_ends_at_zero(config):
    factor = _linear_schedule(replace(config, epochs=100, warmup_epochs=10), steps_per_epoch=2)
    factors = [factor(step) for step in range(201)]
    assert factors[0] < 0.1
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert factors.index(max(factors)) in (19, 20)
    assert factors[200] == 0


def test_training_reconstructs_and_is_reproducible(config, embeddings):
    state = torch.get_rng_state()
    model = train_rqvae(embeddings, config, CPU)
    again = train_rqvae(embeddings, config, CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    x = torch.from_numpy(embeddings)
    with torch.no_grad():
        error = functional.mse_loss(model.from_latents(model.quantized_latents(model.nearest_codes(x))), x)
    assert error < 0.8 * x.var(dim=0).mean()
    assert not model.training


def test_training_keeps_the_state_with_the_fewest_collisions(config, embeddings, monkeypatch):
    seen = []

    def record(codes):
        seen.append((collision_rate(codes), codes))
        return seen[-1][0]

    monkeypatch.setattr("llmrec.item_tokenizer.rqvae_training.collision_rate", record)
    model = train_rqvae(embeddings, config, CPU)
    best = min(rate for rate, _ in seen)
    assert (model.encode(embeddings) == [codes for rate, codes in seen if rate == best][-1]).all()


def test_dead_codes_restart_at_residuals(model, embeddings):
    with torch.no_grad():
        model.codebooks[:, 4:] = 1000  # out of anyone's reach
    codes = model.encode(embeddings)
    assert _restart_dead_codes(model, embeddings, codes, np.random.default_rng(0)) >= 12
    assert model.codebooks.abs().max() < 100
    used = [len(np.unique(model.encode(embeddings)[:, level])) for level in range(3)]
    assert min(used) > 4


def test_item_tokenizer_with_an_rqvae(config, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(200), embeddings, config)
    assert len(np.unique(tokenizer.semantic_ids, axis=0)) == 200


def test_more_codes_than_items(config, embeddings):
    tokenizer = ItemTokenizer.fit(item_ids(5), embeddings[:5], config)
    assert len(np.unique(tokenizer.semantic_ids, axis=0)) == 5
