"""The loss over targets alone is the model's own, in value and gradient, with less memory for logits."""

import pytest
import torch

from llmrec.training import target_loss
from llmrec.training.examples import IGNORED_LABEL
from llmrec.training.target_loss import add_target_loss
from tests.tiny import make_architecture


def _batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, 320, (4, 6), generator=generator)
    labels[0, 3:] = labels[2, 1:] = IGNORED_LABEL
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(2, 320, (4, 9), generator=generator), "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("architecture", ["t5", "t5_untied", "mt5_gated"])
def test_loss_and_gradients_are_those_of_the_full_logits(architecture, monkeypatch) -> None:
    monkeypatch.setattr(target_loss, "_TARGETS_AT_A_TIME", 5)
    model, _ = make_architecture(architecture)
    model.double()
    batch = _batch()
    expected = model(**batch).loss * (batch["labels"] != IGNORED_LABEL).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    add_target_loss(model)
    loss = model(**batch, targets_only=True)["loss"]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    for name, mine, other in zip(
        names, torch.autograd.grad(loss, parameters, allow_unused=True), gradients, strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3, msg=name)


def test_the_forward_stays_the_models_own_and_the_head_comes_back() -> None:
    model, _ = make_architecture("t5")
    batch = _batch()
    logits = model(**batch).logits
    add_target_loss(model)
    model(**batch, targets_only=True)
    assert torch.equal(model(**batch).logits, logits)
    generated = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3)
    assert generated.shape[0] == 4


def test_a_batch_without_targets_has_no_loss_and_no_error() -> None:
    model, _ = make_architecture("t5")
    add_target_loss(model)
    batch = _batch()
    batch["labels"][:] = IGNORED_LABEL
    loss = model(**batch, targets_only=True)["loss"]
    assert loss.item() == 0.0
    loss.backward()


def test_no_tensor_of_the_size_of_all_logits_is_made(monkeypatch) -> None:
    monkeypatch.setattr(target_loss, "_TARGETS_AT_A_TIME", 3)
    model, _ = make_architecture("t5")
    add_target_loss(model)
    rows = []
    model.lm_head.register_forward_hook(lambda _module, _args, output: rows.append(output.shape))
    model(**_batch(), targets_only=True)["loss"].backward()
    with_logits = [shape for shape in rows if shape[-1] == 320]
    assert with_logits
    assert max(shape.numel() for shape in with_logits) == 3 * 320
