"""Letters' logits, batched over a shared cache, against one plain forward pass for each prompt."""

import pytest
import torch

from llmrec.decoding.letters import LetterLogits
from tests.tiny import make_architecture, make_catalog, make_model

LETTERS = [5, 9, 20]


@pytest.mark.parametrize("architecture", ["qwen3", "llama_untied", "gpt2", "gemma2", "gemma3", "mistral_window"])
@pytest.mark.parametrize("shared", [0, 1, 12], ids=["nothing", "one", "much"])
def test_they_are_those_of_a_plain_forward_pass(architecture, shared) -> None:
    model, _ = make_architecture(architecture)
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(1, 200, (shared,), generator=generator).tolist()
    lengths = [1, 7, 3, 12, 5]
    prompts = [
        [*start, 10 + row, *torch.randint(1, 200, (length,), generator=generator).tolist()]
        for row, length in enumerate(lengths)
    ]
    logits = LetterLogits(model, LETTERS)(prompts, batch_size=2)
    with torch.no_grad():
        expected = [model(torch.tensor([prompt])).logits[0, -1, LETTERS] for prompt in prompts]
    torch.testing.assert_close(logits, torch.stack(expected).float(), atol=1e-4, rtol=1e-4)


def test_equal_prompts_and_a_single_token_leave_something_to_read() -> None:
    model, _, _ = make_model(make_catalog())
    prompts = [[7], [7]]
    logits = LetterLogits(model, LETTERS)(prompts, batch_size=8)
    with torch.no_grad():
        expected = model(torch.tensor([[7]])).logits[0, -1, LETTERS]
    torch.testing.assert_close(logits[0], expected.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[1], logits[0])
    assert LetterLogits(model, LETTERS)([], batch_size=8).shape == (0, 3)


def test_what_cannot_be_read_is_refused() -> None:
    model, _, _ = make_model(make_catalog())
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        LetterLogits(model, LETTERS)([[1], []], 2)
    with pytest.raises(ValueError, match="positions"):
        LetterLogits(model, LETTERS)([[1] * 10_000], 2)
    with pytest.raises(ValueError, match="decoder-only"):
        LetterLogits(make_model(make_catalog(), "t5")[0], LETTERS)
