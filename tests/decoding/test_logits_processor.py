"""The constraint for ``generate``: true prefixes, stateless, loud on an unknown prefix."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.generate import generate_items
from llmrec.decoding.logits_processor import CatalogLogitsProcessor
from llmrec.decoding.rules import BatchRules, ItemSubsets, Rules, batch_rules
from llmrec.trie import END, Trie
from tests.decoding.oracle import oracle_ranking, oracle_scores, random_prompts
from tests.strategies import id_sets, prefixes, rule_sets, satisfies
from tests.tiny import make_architecture, make_catalog, make_device_trie, make_model


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


EOS = 0
PROMPTS = random_prompts((3, 6))
TOKENS = np.arange(304, 320).reshape(4, 4)
#: IDs of one, two and three codes; two items share one.
MIXED = np.array([[0, 1, -1], [2, 0, 1], [0, 2, 0], [2, 0, 1], [3, -1, -1], [0, 2, 3], [1, 1, -1]])


@cache
def qwen3() -> PreTrainedModel:
    return make_architecture("qwen3")[0]


def make_trie(ids: np.ndarray) -> DeviceTrie:
    return DeviceTrie(Trie.from_semantic_ids(ids), TOKENS[: ids.shape[1]])


def make_limits(trie: DeviceTrie, rules: list[Rules | None]) -> BatchRules | None:
    return batch_rules(trie, rules, ItemSubsets(trie, {}), len(rules))


def tokens_of(prefix: tuple[int, ...]) -> list[int]:
    """The tokens of some codes, ``EOS`` where the ID has ended."""
    return [EOS if code == END else int(TOKENS[level, code]) for level, code in enumerate(prefix)]


@st.composite
def ruled_catalogues(draw: st.DrawFn) -> tuple[np.ndarray, list[Rules | None]]:
    ids = draw(id_sets(depths=(2, 4), codes=4, max_items=20))
    return ids, draw(st.lists(st.none() | rule_sets(ids, {}), min_size=2, max_size=2))


@settings(deadline=None, max_examples=60)
@given(ruled_catalogues())
def test_with_rules_exactly_the_tokens_that_lead_to_an_allowed_item_stay_open(
    request: tuple[np.ndarray, list[Rules | None]],
) -> None:
    ids, rules = request
    trie, width = make_trie(ids), ids.shape[1]
    truth = np.stack([satisfies(ids, rule, {}) for rule in rules])
    processor = CatalogLogitsProcessor(trie, 1, EOS, limits=make_limits(trie, rules))
    scores = torch.randn(2, 320, generator=torch.Generator().manual_seed(0))
    for depth in range(width + 1):
        for prefix in prefixes(ids, depth):
            masked = processor(torch.tensor([[9, *tokens_of(prefix)]] * 2), scores)
            under = (ids[:, :depth] == prefix).all(axis=1)
            for user in range(2):
                # a whole ID may end whatever the rules are
                codes = np.unique(ids[under & truth[user], depth]).tolist() if depth < width else [END]
                expected = torch.full((320,), -torch.inf)
                for code in codes:
                    token = EOS if code == END else TOKENS[depth, code]
                    expected[token] = 0.0 if code == END else scores[user, token]
                assert torch.equal(masked[user], expected)


def test_a_short_id_ends_at_no_cost_and_goes_on_with_padding() -> None:
    trie = make_trie(MIXED)
    processor = CatalogLogitsProcessor(trie, prompt_length=1, eos_token_id=EOS)
    scores = torch.full((1, 320), -7.0)
    only_eos = torch.full((1, 320), -torch.inf)
    only_eos[0, EOS] = 0.0
    for codes in ((3,), (0, 1), (3, -1), (0, 1, -1), (0, 2, 3), (3, -1, -1)):
        assert torch.equal(processor(torch.tensor([[9, *tokens_of(codes)]]), scores), only_eos)
    # the padding of an ID that has ended may be any token
    assert torch.equal(processor(torch.tensor([[9, *tokens_of((3, -1)), 77]]), scores), only_eos)
    for unknown in ([EOS], [*tokens_of((0,)), EOS], [*tokens_of((3,)), 77], [*tokens_of((2, 0)), EOS]):
        with pytest.raises(ValueError, match="no prefix of a catalogue item"):
            processor(torch.tensor([[9, *unknown]]), scores)


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
def test_generate_ranks_ids_of_mixed_depth_as_the_oracle_does(architecture: str) -> None:
    model, trie = make_architecture(architecture)[0], make_trie(MIXED)
    rules = [None, Rules(exclude=[3, 4], forbid_prefixes=[[0, 2, 0]])]
    ranked = generate_items(model, PROMPTS, trie, 10, limits=make_limits(trie, rules))
    for user, allowed in enumerate([range(7), [0, 1, 5, 6]]):
        scores = oracle_scores(model, PROMPTS[user], trie, "vocabulary")
        items, expected = oracle_ranking(scores, allowed, 10)
        assert ranked.items[user].tolist() == [*items, *[-1] * (10 - len(items))]
        torch.testing.assert_close(ranked.scores[user, : len(items)], expected, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=12)
@given(ruled_catalogues())
def test_generate_with_a_beam_for_every_item_gives_what_the_search_gives(
    request: tuple[np.ndarray, list[Rules | None]],
) -> None:
    ids, rules = request
    trie, num_beams = make_trie(ids), max(2, len(ids))
    limits = make_limits(trie, rules)
    reference = generate_items(qwen3(), PROMPTS, trie, num_beams, limits=limits)
    ours = BeamSearch(qwen3(), trie, "vocabulary")(PROMPTS, num_beams, rules=rules)
    torch.testing.assert_close(reference.scores, ours.scores, atol=1e-4, rtol=1e-4)
    for first, second in zip(reference.items.tolist(), ours.items.tolist(), strict=True):
        assert sorted(first) == sorted(second)


@settings(deadline=None, max_examples=12)
@given(ruled_catalogues(), st.integers(0, 2**31))
def test_generate_without_beams_finds_an_allowed_item_greedy_or_sampled(
    request: tuple[np.ndarray, list[Rules | None]], seed: int
) -> None:
    ids, rules = request
    trie = make_trie(ids)
    limits = make_limits(trie, rules)
    allowed = [np.flatnonzero(satisfies(ids, rule, {})).tolist() for rule in rules]
    assume(all(allowed))
    greedy = generate_items(qwen3(), PROMPTS, trie, 1, limits=limits)
    ours = BeamSearch(qwen3(), trie, "vocabulary")(PROMPTS, 1, rules=rules)
    assert greedy.items.tolist() == ours.items.tolist()
    torch.testing.assert_close(greedy.scores, ours.scores, atol=1e-4, rtol=1e-4)
    torch.manual_seed(seed)
    processor = CatalogLogitsProcessor(trie, 3, EOS, limits=limits)
    prompts = torch.tensor([PROMPTS[0], PROMPTS[1][:3]])
    sampled = qwen3().generate(
        prompts, logits_processor=[processor], do_sample=True, max_new_tokens=trie.num_codebooks, pad_token_id=1
    )
    starts, ends = trie.item_range(processor.leaves(sampled, 2))
    for user, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        assert set(trie.items_at(torch.arange(start, end)).tolist()) & set(allowed[user])


def test_generate_may_stop_before_the_deepest_level() -> None:
    trie = make_trie(MIXED)
    rules = [Rules(allow=[4]), Rules(allow=[4, 6])]
    limits = make_limits(trie, rules)
    processor = CatalogLogitsProcessor(trie, 1, EOS, limits=limits)
    sequences = torch.tensor([[9, *tokens_of((3,))], [9, *tokens_of((1, 1, -1))][:2]])
    # the second ID goes on
    assert processor.leaves(sequences[:1].repeat(2, 1), 2).tolist() == [*trie.trie.walk(MIXED[[4, 4]])]
    with pytest.raises(ValueError, match="no prefix of a catalogue item"):
        processor.leaves(sequences, 2)
    for num_beams in (1, 2, 4):
        ranked = generate_items(qwen3(), PROMPTS, trie, num_beams, limits=limits)
        assert ranked.items[0].tolist() == [4, *[-1] * (num_beams - 1)]
        assert set(ranked.items[1].tolist()) <= {4, 6, -1}
        assert int(ranked.items[1, 0]) in (4, 6)


def test_one_processor_with_rules_serves_calls_of_any_depth() -> None:
    trie = make_trie(MIXED)
    limits = make_limits(trie, [Rules(exclude=[4]), Rules(allow=[4, 5])])
    processor = CatalogLogitsProcessor(trie, 1, EOS, limits=limits)
    scores = torch.zeros(2, 320)
    first = torch.tensor([[9], [9]])
    second = torch.tensor([[9, TOKENS[0, 2]], [9, TOKENS[0, 0]]])
    outcomes = [processor(rows, scores) for rows in (first, second, first, second)]
    assert torch.equal(outcomes[0], outcomes[2])
    assert torch.equal(outcomes[1], outcomes[3])
    for outcome, expected in zip(outcomes, ([[[0, 1, 2]], [[0, 3]]], [[[], [0]], [[], [2]]]), strict=False):
        for row, levels in zip(outcome, expected, strict=True):
            open_tokens = [TOKENS[level, code] for level, codes in enumerate(levels) for code in codes]
            assert row.isfinite().nonzero().flatten().tolist() == open_tokens
    assert torch.equal(scores, torch.zeros(2, 320))  # what generate gave stays as it was


def leaf_sequences(prompt_length: int) -> torch.Tensor:
    """Two beams for each of two prompts, as ``generate`` returns them."""
    rows = [MIXED[item].tolist() for item in (1, 4, 0, 6)]
    return torch.tensor([[*range(50, 50 + prompt_length), *tokens_of(tuple(row))] for row in rows])


def test_leaves_are_those_of_the_sequences() -> None:
    trie = make_trie(MIXED)
    processor = CatalogLogitsProcessor(trie, prompt_length=4, eos_token_id=EOS, num_beams=2)
    expected = trie.trie.walk(MIXED[[1, 4, 0, 6]]).tolist()
    assert processor.leaves(leaf_sequences(4), 2).tolist() == expected
    # what stands behind the ID, as eos does, is not read
    longer = torch.cat([leaf_sequences(4), torch.full((4, 2), EOS)], dim=1)
    assert processor.leaves(longer, 2).tolist() == expected
    # beams that the catalogue could not fill
    scores = torch.tensor([-3.0, -1e9, -torch.inf, -4.0])
    assert processor.leaves(leaf_sequences(4), 2, scores).tolist() == [expected[0], -1, -1, expected[3]]


@pytest.mark.parametrize("wrong", [2, 3, 5, 6])
def test_leaves_refuse_a_wrong_prompt_length(wrong: int) -> None:
    processor = CatalogLogitsProcessor(make_trie(MIXED), prompt_length=wrong, eos_token_id=EOS, num_beams=2)
    with pytest.raises(ValueError, match=rf"prompt_length \({wrong}\)"):
        processor.leaves(leaf_sequences(4), 2)


def test_leaves_name_the_prompt_that_lost_its_beams_but_not_one_that_never_had_any() -> None:
    trie = make_trie(MIXED)
    sequences = leaf_sequences(4)
    sequences[2:, 4:] = 77
    with pytest.raises(ValueError, match=r"Row 2 holds the tokens \[77, 77, 77\]"):
        CatalogLogitsProcessor(trie, 4, EOS, num_beams=2).leaves(sequences, 2)
    limits = make_limits(trie, [None, Rules(exclude=range(7))])
    leaves = CatalogLogitsProcessor(trie, 4, EOS, num_beams=2, limits=limits).leaves(sequences, 2)
    assert leaves.tolist() == [*trie.trie.walk(MIXED[[1, 4]]), -1, -1]
