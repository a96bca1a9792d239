"""Models that cannot be searched the fastest way get another one with the same results, or a reason why not."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.copied_caches import CopiedCaches
from llmrec.decoding.rules import Rules
from llmrec.decoding.shared_prefix import SharedPrefix
from tests.decoding.oracle import oracle_ranking, oracle_scores, random_prompts
from tests.tiny import make_architecture

PROMPTS = random_prompts((3, 9, 5))


def assert_search_equals_oracle(search: BeamSearch, prompts: list[list[int]]) -> None:
    rules = [None, Rules(exclude=[0, 3, 5, 8]), Rules(allow=[1, 2, 3, 9, 20])]
    allowed = [range(30), [item for item in range(30) if item not in (0, 3, 5, 8)], [1, 2, 3, 9, 20]]
    ranked = search(prompts, 30, rules=rules)
    for user, prompt in enumerate(prompts):
        scores = oracle_scores(search.model, prompt, search.trie, search.scores)
        items, expected = oracle_ranking(scores, allowed[user], 30)
        assert ranked.items[user, : len(items)].tolist() == items
        torch.testing.assert_close(ranked.scores[user, : len(items)], expected, atol=1e-4, rtol=1e-4)
        assert (ranked.items[user, len(items) :] == -1).all()


def change_decoder(model: PreTrainedModel, change: Callable[[dict[str, Any]], None]) -> None:
    """Let ``change`` edit the arguments that the decoder is called with."""
    decoder = model.get_decoder()
    forward = decoder.forward

    def changed(
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, **others}
        change(inputs)
        return forward(**inputs)

    decoder.forward = changed


def ignore_tree_masks(inputs: dict[str, Any]) -> None:
    mask = inputs["attention_mask"]
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.dim() == 2):
        inputs["attention_mask"] = None


def ignore_masks(inputs: dict[str, Any]) -> None:
    inputs["attention_mask"] = None


def refuse_tree_masks(inputs: dict[str, Any]) -> None:
    mask = inputs["attention_mask"]
    if mask is not None and mask.dim() == 4:
        raise NotImplementedError("no 4-D masks here\nand a second line")


def assert_fell_back(search: BeamSearch, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    assert search.way.state is CopiedCaches
    warnings = [record for record in caplog.records if record.name == "llmrec.decoding.probe"]
    assert len(warnings) == 1
    assert warnings[0].levelno == logging.WARNING
    message = warnings[0].getMessage()
    assert message.startswith(f"{type(search.model).__name__}: beams with copied caches, ")
    assert message.count("beams over one shared prefix") == 2
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("scores", ["vocabulary", "catalog"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ignore_tree_masks, "standard deviations from a plain pass"),
        (refuse_tree_masks, "the model refuses it (NotImplementedError: no 4-D masks here"),
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen3_untied"])
def test_a_model_that_takes_no_tree_mask_gets_a_cache_for_each_beam(
    architecture: str, change: Callable, reason: str, scores: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, trie = make_architecture(architecture)
    change_decoder(model, change)
    search = BeamSearch(model, trie, scores)
    assert_fell_back(search, caplog, reason)
    assert search.way.hidden
    assert_search_equals_oracle(search, PROMPTS)


def test_narrow_beams_are_the_same_whether_caches_are_shared_or_copied() -> None:
    model, trie = make_architecture("llama")
    expected = [BeamSearch(model, trie)(PROMPTS, num_beams) for num_beams in (1, 2, 4)]
    change_decoder(model, ignore_tree_masks)
    search = BeamSearch(model, trie)
    assert search.way.state is CopiedCaches
    for num_beams, ranked in zip((1, 2, 4), expected, strict=True):
        copied = search(PROMPTS, num_beams)
        assert copied.items.tolist() == ranked.items.tolist()
        torch.testing.assert_close(copied.scores, ranked.scores, atol=1e-4, rtol=1e-4)


def test_a_model_that_ignores_every_mask_is_refused() -> None:
    model, trie = make_architecture("llama")
    change_decoder(model, ignore_masks)
    # rotary positions are relative, but left padding would be attended to
    with pytest.raises(ValueError, match="needs a key-value cache and left padding") as error:
        BeamSearch(model, trie)
    assert str(error.value).count("standard deviations from a plain pass") == 4
    assert error.match("LlamaForCausalLM")


@pytest.mark.parametrize("scores", ["vocabulary", "catalog"])
@pytest.mark.parametrize("architecture", ["qwen3", "llama_untied", "t5"])
def test_a_head_that_is_not_known_is_evaluated_by_the_model(
    architecture: str, scores: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, trie = make_architecture(architecture)
    double_logits(model)
    search = BeamSearch(model, trie, scores)
    assert (search.way.state, search.way.hidden) == (SharedPrefix, False)
    assert "the whole output head, since beams over one shared prefix, rows of the output head: logits differ by" in (
        caplog.text
    )
    assert_search_equals_oracle(search, PROMPTS)


def double_logits(model: PreTrainedModel) -> None:
    forward = model.forward

    @wraps(forward)
    def doubled(*arguments: Any, **options: Any) -> Any:
        output = forward(*arguments, **options)
        output.logits = output.logits * 2
        return output

    model.forward = doubled


@pytest.mark.parametrize("scores", ["vocabulary", "catalog"])
def test_neither_mask_nor_head_known_leaves_copied_caches_and_the_models_head(
    scores: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, trie = make_architecture("llama")
    change_decoder(model, ignore_tree_masks)
    double_logits(model)
    search = BeamSearch(model, trie, scores)
    assert_fell_back(search, caplog, "standard deviations from a plain pass")
    assert not search.way.hidden
    assert_search_equals_oracle(search, PROMPTS)


def test_a_model_that_is_searched_the_fastest_way_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model, trie = make_architecture("llama")
    search = BeamSearch(model, trie)
    assert (search.way.state, search.way.hidden) == (SharedPrefix, True)
    assert not [record for record in caplog.records if record.name == "llmrec.decoding.probe"]


def test_a_model_without_a_cache_is_refused_with_the_reasons() -> None:
    _, trie = make_architecture("llama")
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=0)
    model = MambaForCausalLM(config)
    with pytest.raises(ValueError, match="No way to run beams gives the logits of MambaForCausalLM") as error:
        BeamSearch(model, trie)
    message = str(error.value)
    for way in ("beams over one shared prefix", "beams with copied caches"):
        for head in ("rows of the output head", "the whole output head"):
            assert f"{way}, {head}: " in message
    assert model.training  # as it was
