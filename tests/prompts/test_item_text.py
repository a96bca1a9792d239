"""What prompts say about items: tidy, bounded, and nothing that every item shares."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.item_text import MAX_TEXT_CHARS, item_texts, shortened
from llmrec.schema import DataError
from tests.prompts.conftest import make_items


@given(st.text(max_size=60), st.integers(5, 40))
def test_shortened_text_fits_and_is_the_beginning_of_the_text(text: str, limit: int) -> None:
    short = shortened(text, limit)
    whole = " ".join(html.unescape(text).split())
    assert len(short) <= limit
    assert short == whole or (short.endswith(" …") and whole.startswith(short[:-2]) and len(whole) > limit)


def test_titles_lose_punctuation_at_their_ends_unless_that_is_all_they_are() -> None:
    texts = item_texts(make_items({"a": "  `Heat!`. ", "b": "...", "c": "Q &amp; A\n 11"}))
    assert [text.title for text in texts.values()] == ["Heat", "...", "Q & A 11"]


def test_a_long_text_is_cut_and_a_category_of_most_items_says_nothing() -> None:
    items = make_items({"a": "word " * 500, "b": "B", "c": "C"})
    shared = [["Shop", "Drama"], ["Shop"], ["Shop", "Drama"]]
    items = items.set_column(4, items.schema.field(4), [shared])
    texts = item_texts(items)
    assert len(texts["a"].title) <= MAX_TEXT_CHARS
    assert {text.categories for text in texts.values()} == {()}
    rare = items.set_column(4, items.schema.field(4), [[["Shop", "Drama"], ["Shop"], ["Shop"]]])
    assert item_texts(rare)["a"].categories == ("Drama",)


def test_an_item_without_a_title_is_named() -> None:
    with pytest.raises(DataError, match=r"Item 'b' \(row 1 of the items table\) has an empty title"):
        item_texts(make_items({"a": "A", "b": " \n"}))
