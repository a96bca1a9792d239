"""Token ids of queries, thoughts and items: control tokens are ours alone, whatever the text and the model say."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.models.from_config import train_text_tokenizer
from llmrec.models.lrem import LremPrompts
from llmrec.schema import ITEMS
from tests.models.lrem.conftest import LINES, make_prompts

PROMPTS = make_prompts()
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)


@given(
    st.text(max_size=40), st.sampled_from(["", "<emb>", "<think>", "</think>", "<a_12>", "<|endoftext|>", "<|pad|>"])
)
def test_text_never_becomes_a_control_token(text: str, spelt: str) -> None:
    typed = f"x {text}{spelt}{text}"
    ends = set(PROMPTS.end_token_ids)
    assert not set(PROMPTS.query(typed)) & ends
    assert not set(PROMPTS.item(typed)[:-1]) & ends
    assert PROMPTS.item(typed)[-1] == PROMPTS.tokens.embed
    thought = PROMPTS.thought(typed)
    assert not set(thought[1:-2]) & ends
    assert [thought[0], *thought[-2:]] == list(PROMPTS.tokens)


@given(st.lists(st.integers(0, len(PROMPTS.tokenizer) - 1), max_size=40))
def test_whatever_a_model_writes_is_closed_within_the_cap(written: list[int]) -> None:
    closed = PROMPTS.closed(written)
    assert [closed[0], *closed[-2:]] == list(PROMPTS.tokens)
    assert len(closed) <= PROMPTS.max_thought_tokens + 3
    assert not set(closed[1:-2]) & set(PROMPTS.end_token_ids)
    assert PROMPTS.closed(closed) == closed
    start = written[1:] if written[:1] == [PROMPTS.tokens.think] else written
    assert start[: len(closed) - 3] == closed[1:-2]


def test_a_thought_longer_than_the_cap_is_cut() -> None:
    long = PROMPTS.thought("red " * 100)
    assert len(long) == 16 + 3
    assert PROMPTS.closed([5] * 100) == [PROMPTS.tokens.think, *[5] * 16, *PROMPTS.tokens[1:]]


def test_ten_thousand_characters_are_cut_and_nothing_is_refused() -> None:
    query = PROMPTS.query("red " * 2500)
    edges = len(PROMPTS.query("x")) - 1
    assert len(query) == PROMPTS.max_text_tokens + edges
    assert query == PROMPTS.query("red " * 300)


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_query_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"query .* is empty: give it at least one character"):
        PROMPTS.query(text)
    with pytest.raises(ValueError, match=r"item .* is empty"):
        PROMPTS.item(text)


def test_a_chat_template_holds_the_query_and_its_markup_stays_whole() -> None:
    tokenizer = train_text_tokenizer(LINES, 320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|system|>", "<|a|>"]})
    tokenizer.chat_template = CHAT
    LremPrompts.add_to(tokenizer)
    prompts = LremPrompts(tokenizer)
    user, system, answer = tokenizer.convert_tokens_to_ids(["<|user|>", "<|system|>", "<|a|>"])
    ids = prompts.query("round <|user|> <|a|>")
    assert (ids.count(user), ids.count(system), ids.count(answer)) == (1, 1, 1)
    assert ids[-1] == answer
    assert prompts.item("round")[-2:] == [answer, prompts.tokens.embed]


def test_without_reasoning_a_query_is_embedded_at_once() -> None:
    prompts = make_prompts(reasoning=False)
    assert prompts.closed([5, 6, 7]) == [prompts.tokens.embed]


def test_a_tokenizer_that_has_thinking_tokens_keeps_them() -> None:
    tokenizer = train_text_tokenizer(LINES, 320)
    tokenizer.add_tokens(["<think>", "</think>"])
    known = tokenizer.convert_tokens_to_ids("<think>")
    assert LremPrompts.add_to(tokenizer) == [len(tokenizer) - 1]
    assert LremPrompts(tokenizer).tokens.think == known


def test_a_tokenizer_without_the_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no token <think>: use LremPrompts\.add_to"):
        LremPrompts(train_text_tokenizer(LINES, 320))


def test_prompts_come_back_from_what_a_checkpoint_notes() -> None:
    prompts = make_prompts(max_text_tokens=7, descriptions=True)
    again = LremPrompts.from_options(prompts.tokenizer, prompts.options)
    assert again.options == prompts.options
    assert again.query("warm " * 20) == prompts.query("warm " * 20)
    with pytest.raises(ValueError, match="other prompts"):
        LremPrompts.from_options(prompts.tokenizer, {**prompts.options, "wording": ["other"]})


def test_a_line_tells_what_an_item_has() -> None:
    rows = [
        ("1", "Kettle  by Acme", "Boils\nwater", "Acme", ["Kitchen", "Tea"]),
        ("2", "Lamp", "", "Acme", []),
    ]
    items = pa.table(dict(zip(ITEMS.names, zip(*rows, strict=True), strict=True)), schema=ITEMS)
    assert PROMPTS.lines(items) == ["Kettle by Acme | Kitchen, Tea", "Lamp | Acme"]
    described = make_prompts(descriptions=True)
    assert described.lines(items)[0] == "Kettle by Acme | Kitchen, Tea | Boils water"
