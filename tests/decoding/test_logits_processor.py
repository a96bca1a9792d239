"""The constraint for ``generate``: true prefixes, stateless, loud on an unknown prefix."""

import pytest
import torch

from llmrec.decoding.generate import generate_items
from llmrec.decoding.logits_processor import CatalogLogitsProcessor
from llmrec.decoding.rules import ItemSubsets, Rules, batch_rules
from tests.tiny import make_catalog, make_device_trie, make_model


def _setup(num_items: int = 30):
    catalog = make_catalog(num_items)
    model, tokenizer, vocabulary = make_model(catalog)
    return catalog, model, tokenizer, vocabulary, make_device_trie(catalog, vocabulary)


def test_exactly_the_tokens_that_lead_to_an_item_stay_open_at_every_prefix() -> None:
    catalog, _, tokenizer, vocabulary, trie = _setup()
    processor = CatalogLogitsProcessor(trie, prompt_length=2, eos_token_id=tokenizer.eos_token_id)
    tokens = vocabulary.item_token_ids(catalog.semantic_ids).tolist()
    for depth in range(4):
        for prefix in {tuple(row[:depth]) for row in tokens}:
            scores = processor(torch.tensor([[9, 9, *prefix]]), torch.zeros(1, len(tokenizer)))
            allowed = set((scores[0] > -torch.inf).nonzero().flatten().tolist())
            continuations = {row[depth] for row in tokens if tuple(row[:depth]) == prefix} if depth < 3 else set()
            assert allowed == (continuations or {tokenizer.eos_token_id})


def test_an_unknown_prefix_raises() -> None:
    catalog, _, tokenizer, vocabulary, trie = _setup()
    known = {tuple(row[:2]) for row in vocabulary.item_token_ids(catalog.semantic_ids).tolist()}
    a, b = vocabulary.code_token_ids[:2]
    unknown = next((int(x), int(y)) for x in a for y in b if (x, y) not in known)
    processor = CatalogLogitsProcessor(trie, prompt_length=1, eos_token_id=0)
    for prefix in (unknown, (5, 5), (int(b[0]), int(a[0]))):
        with pytest.raises(ValueError, match="no prefix of a catalogue item"):
            processor(torch.tensor([[9, *prefix]]), torch.zeros(1, len(tokenizer)))


def test_a_wrong_prompt_length_raises_instead_of_going_on_unconstrained() -> None:
    _, model, tokenizer, _, trie = _setup()
    processor = CatalogLogitsProcessor(trie, prompt_length=2, eos_token_id=tokenizer.eos_token_id, num_beams=4)
    with pytest.raises(ValueError, match="prompt_length"):
        model.generate(torch.tensor([[9, 9, 9]]), logits_processor=[processor], num_beams=4, max_new_tokens=3)


def test_one_processor_serves_many_calls() -> None:
    catalog, _, tokenizer, vocabulary, trie = _setup()
    processor = CatalogLogitsProcessor(trie, prompt_length=1, eos_token_id=0)
    rows = torch.tensor([[9, *row] for row in vocabulary.item_token_ids(catalog.semantic_ids)[:, :2].tolist()])
    scores = torch.zeros(len(rows), len(tokenizer))
    first = processor(rows, scores)
    processor(rows[:, :1], scores)
    assert torch.equal(processor(rows, scores), first)


def test_sampling_settings_of_a_chat_model_do_not_leak_in() -> None:
    _, model, _, _, trie = _setup()
    prompts = [[9, 12, 40], [7, 7]]
    plain = generate_items(model, prompts, trie, num_beams=5, k=5)
    chat = model.generation_config
    chat.do_sample, chat.temperature, chat.top_k, chat.repetition_penalty, chat.no_repeat_ngram_size = (
        True,
        3.0,
        2,
        5.0,
        1,
    )
    leaked = generate_items(model, prompts, trie, num_beams=5, k=5)
    assert leaked.items.tolist() == plain.items.tolist()
    torch.testing.assert_close(leaked.scores, plain.scores)
    assert model.generation_config is chat


def test_an_encoder_decoder_gets_only_catalogue_items_each_once() -> None:
    catalog = make_catalog(12)
    model, _, vocabulary = make_model(catalog, "t5")
    trie = make_device_trie(catalog, vocabulary)
    limits = batch_rules(trie, [Rules(exclude=[0, 1]), None], ItemSubsets(trie, {}), 2)
    ranked = generate_items(model, [[9, 12, 40], [7, 7]], trie, num_beams=20, limits=limits)
    assert sorted(ranked.items[0][ranked.items[0] >= 0].tolist()) == list(range(2, 12))
    assert sorted(ranked.items[1][ranked.items[1] >= 0].tolist()) == list(range(12))
