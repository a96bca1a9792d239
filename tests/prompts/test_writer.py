"""The deterministic writer says what is true of a request, always the same, and no target in a preference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.item_text import ItemText
from llmrec.prompts.writer import DeterministicWriter, WriterRequest

WORDS = st.text(alphabet=st.characters(whitelist_categories=["L"]), min_size=1, max_size=8)
ITEM = st.builds(
    ItemText,
    title=WORDS,
    description=st.just(""),
    brand=st.one_of(st.just(""), WORDS),
    categories=st.lists(WORDS, max_size=3).map(tuple),
)
REQUEST = st.builds(
    WriterRequest,
    user_id=WORDS,
    history=st.lists(ITEM, min_size=1, max_size=8).map(tuple),
    target=ITEM,
    review=st.one_of(st.just(""), st.text(max_size=400)),
)
HISTORY = tuple(ItemText(f"Film {number}", "", "", ("Drama",) if number < 5 else ("Western",)) for number in range(8))
TARGET = ItemText("The Secret Garden (1993)", "", "Acme", ("Fantasy",))


@given(REQUEST)
def test_texts_are_sentences_of_bounded_length_and_repeatable(request_: WriterRequest) -> None:
    writer = DeterministicWriter()
    texts = [*next(writer.intentions([request_])), *next(writer.preferences([request_]))]
    assert texts == [*next(writer.intentions([request_])), *next(writer.preferences([request_]))]
    for text in texts:
        assert text.strip()
        assert text.endswith((".", "!", "?", "…"))
        assert "\n" not in text
        assert len(text) < 600


@pytest.mark.parametrize("user_id", list("abcdefgh"))
def test_preferences_follow_the_history_and_do_not_know_the_target(user_id: str) -> None:
    request = WriterRequest(user_id, HISTORY, TARGET, "Marvellous roses.")
    (preferences,) = DeterministicWriter().preferences([request])
    assert "Drama" in preferences.overall_preference
    assert "Drama" in preferences.long_term_preference
    assert "Western" not in preferences.long_term_preference
    assert "Western" in preferences.short_term_preference
    assert not any(word in text for text in preferences for word in ("Secret", "Fantasy", "Acme", "roses"))


@pytest.mark.parametrize("user_id", list("abcdefgh"))
def test_intentions_point_to_the_target_without_its_whole_title(user_id: str) -> None:
    request = WriterRequest(user_id, HISTORY, TARGET, "Marvellous roses. And more.")
    (intentions,) = DeterministicWriter().intentions([request])
    assert "Marvellous roses." in intentions.user_intention
    assert "Fantasy by Acme" in intentions.item_intention
    assert "And more" not in intentions.item_intention
    assert not any(TARGET.title in text for text in intentions)


def test_without_categories_brands_and_then_titles_stand_in() -> None:
    branded = (ItemText("A", "", "Acme", ()), ItemText("B", "", "Acme", ()))
    bare = (ItemText("A", "", "", ()), ItemText("B", "", "", ()))
    for history, expected in ((branded, "Acme"), (bare, '"B"')):
        request = WriterRequest("u", history, TARGET, "")
        assert expected in next(DeterministicWriter().preferences([request])).overall_preference
