"""Titles as answers: a trie of titles, and text that is a title of the catalogue whatever the model would say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.logits_processor import CatalogLogitsProcessor
from llmrec.prompts.history import history_prompt
from llmrec.prompts.titles import MAX_TITLE_TOKENS, TitleRenderer
from llmrec.vocabulary import ItemVocabulary
from tests.tiny import make_catalog, make_model

TITLES = ["Heat", "Heat 2", "Heat", "The long,  long\nnight", "Sea " * 60, "<a_1><b_2>", "<|endoftext|>", "Émile"]


def make(titles: list[str] = TITLES) -> tuple[TitleRenderer, object, object]:
    catalog = make_catalog(len(titles), titles=titles)
    model, tokenizer, vocabulary = make_model(catalog)
    return TitleRenderer(catalog, vocabulary), model, tokenizer


def test_an_item_is_a_line_with_its_title_and_no_title_becomes_an_item_token() -> None:
    renderer, _, tokenizer = make()
    lines = [tokenizer.decode(renderer.item_tokens(str(row))) for row in range(len(TITLES))]
    assert lines[:4] == ["Heat\n", "Heat 2\n", "Heat\n", "The long, long night\n"]
    assert len(renderer.item_tokens("4")) == MAX_TITLE_TOKENS + 1
    controls = {*renderer.vocabulary.new_token_ids, *tokenizer.all_special_ids}
    assert not any(controls & set(renderer.item_tokens(str(row))) for row in range(len(TITLES)))
    assert tokenizer.decode(renderer(history_prompt(["0", "7"]))).endswith("Heat\nÉmile\n")


def test_titles_that_are_the_same_share_a_leaf_and_one_may_begin_another() -> None:
    renderer, _, _ = make()
    leaves = renderer.trie.walk(renderer.trie.semantic_ids)
    assert leaves[0] == leaves[2]
    assert len(set(leaves.tolist())) == len(TITLES) - 1
    assert renderer.trie.max_leaf_items == 2


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12), min_size=2, max_size=9))
def test_whatever_the_titles_every_item_is_found_and_only_titles_are_written(titles) -> None:
    renderer, model, tokenizer = make(titles)
    trie = DeviceTrie(renderer.trie, renderer.code_token_ids)
    prompt = renderer(history_prompt(["0"]))
    ranked = BeamSearch(model, trie)([prompt], len(titles))
    assert sorted(ranked.items[0].tolist()) == list(range(len(titles)))
    processor = CatalogLogitsProcessor(trie, len(prompt), tokenizer.eos_token_id)
    torch.manual_seed(0)
    written = model.generate(
        torch.tensor([prompt]),
        logits_processor=[processor],
        do_sample=True,
        max_new_tokens=trie.num_codebooks + 1,
        pad_token_id=tokenizer.pad_token_id,
    )[0, len(prompt) :].tolist()
    written = [token for token in written if token not in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
    assert written in [renderer.item_tokens(str(row)) for row in range(len(titles))]


def test_a_tokenizer_without_line_breaks_is_refused() -> None:
    catalog = make_catalog()
    _, tokenizer, _ = make_model(catalog)
    backend = tokenizer.backend_tokenizer
    from tokenizers import normalizers  # noqa: PLC0415

    backend.normalizer = normalizers.Replace("\n", "")
    vocabulary = ItemVocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), catalog.codebook_sizes)
    with pytest.raises(ValueError, match="end of a line"):
        TitleRenderer(catalog, vocabulary)
