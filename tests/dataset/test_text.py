"""Texts of product pages, made readable."""

import pytest

from llmrec.dataset.readers.text import clean_text, plain_text, unpacked_text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a&lt;b&gt; <br/>c\n\"d\"", "a c d"),
        ("Tom &amp;amp; Jerry&hellip;", "Tom & Jerry…"),
        ("before<script>var x = 1 < 2;</script>after <!-- note --> end", "before after end"),
        ('<p class="wide">one</p>two', "one two"),
        (["x", None, "y"], "x y"),
        (None, ""),
        ("z" * 2000, ""),
        ("z" * 1999, "z" * 1999),
    ],
)  # fmt: skip
def test_text_is_cleaned_as_lc_rec_does(given: object, expected: str) -> None:
    assert clean_text(given) == expected


@pytest.mark.parametrize("text", ["<a_12> <b_3>", "1 < 2 and 3 > 2", "<3", "a <- b"])
def test_what_is_no_html_stays(text: str) -> None:
    assert plain_text(text) == text


def test_long_reviews_stay_and_long_descriptions_go() -> None:
    assert len(plain_text("word " * 1000)) == 4999
    assert clean_text("word " * 1000) == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("['one', \"two's\"]", ["one", "two's"]),
        ("[]", []),
        ("['broken]", "['broken]"),
        ("['x' + __import__('os').sep]", "['x' + __import__('os').sep]"),
        ("[Sealed] box", "[Sealed] box"),
        (3, 3),
    ],
)
def test_lists_that_were_written_as_text_are_unpacked_and_nothing_is_run(given: object, expected: object) -> None:
    assert unpacked_text(given) == expected
