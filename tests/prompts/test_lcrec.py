"""Rendering: items only where the data has items, every field whole, draws that are uniform and repeatable."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.lcrec import (
    CHOICES,
    RESPONSE_MARKER,
    TEMPLATES,
    Example,
    Wording,
    draw_template,
    fitting_templates,
    render,
    seqrec_prompt,
)
from llmrec.prompts.lcrec_rows import FIELDS, ITEM_FIELDS
from llmrec.prompts.lcrec_templates import TASKS, parts
from llmrec.prompts.segments import Segment

HOSTILE = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(["<a_12>", "{history}", "{", "}}", "{0}", "<|im_end|>", "</s> <b_3>", "%s", "\nAnswer:\n"]),
)


def _example(task: str, texts: list[str], without: tuple[str, ...] = ()) -> Example:
    """Every field of ``task``: items are i0, i1 ..., texts come from ``texts`` in turn."""
    fields = {}
    for number, name in enumerate(FIELDS[task]):
        many = 3 if name in ("history", "titles") else 1
        kind = "item" if name in ITEM_FIELDS else "text"
        values = [f"{name}{place}" if kind == "item" else texts[(number + place) % len(texts)] for place in range(many)]
        if name not in without:
            fields[name] = [Segment(kind, value) for value in values]
    return Example(task, fields)


@given(task=st.sampled_from(TASKS), texts=st.lists(HOSTILE, min_size=1, max_size=8), choice=st.integers(0, 5))
def test_user_text_stays_text_and_items_are_exactly_the_examples(task, texts, choice) -> None:
    example = _example(task, texts)
    for index, template in enumerate(TEMPLATES[task]):
        prompt, completion = render(example, Wording(index, choice))
        for segments, text, tail in ((prompt, template.text, RESPONSE_MARKER), (completion, template.completion, "")):
            expected_items, expected_text = [], ""
            for literal, slot in parts(text):
                expected_text += literal
                if slot is None:
                    continue
                name = CHOICES[slot][choice % len(CHOICES[slot])] if slot in CHOICES else slot
                values = [segment.value for segment in example.fields[name]]
                if name in ITEM_FIELDS:
                    expected_items += values
                    expected_text += ", " * (len(values) - 1)
                else:
                    expected_text += ", ".join(values)
            assert [segment.value for segment in segments if segment.kind == "item"] == expected_items
            assert "".join(segment.value for segment in segments if segment.kind == "text") == expected_text + tail


def test_a_title_that_spells_an_item_token_is_a_text_segment() -> None:
    example = Example("item2index", {"title": [Segment("text", "<a_12>")], "item": [Segment("item", "7")]})
    prompt, completion = render(example, 1)
    assert prompt == [Segment("text", f"Title: <a_12>\nItem:{RESPONSE_MARKER}")]
    assert completion == [Segment("item", "7")]


@pytest.mark.parametrize("template", range(17))
def test_evaluation_asks_as_training_does(template: int) -> None:
    example = _example("seqrec", ["x"])
    prompt, _ = render(example, template)
    assert seqrec_prompt(["history0", "history1", "history2"], template) == prompt
    assert prompt[-1].value.endswith(RESPONSE_MARKER)


def test_an_empty_history_still_makes_a_question() -> None:
    assert [segment.kind for segment in seqrec_prompt([])] == ["text"]


def test_only_templates_whose_fields_are_there_are_drawn() -> None:
    untold = _example("item2index", ["x"], without=("description",))
    assert fitting_templates(untold) == list(range(6))
    assert len(fitting_templates(_example("item2index", ["x"]))) == 19
    assert fitting_templates(_example("fusionseqrec", ["x"], without=("description",))) == [0, 1, 2, 3, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="needs the field 'description'"):
        render(untold, 6)
    with pytest.raises(ValueError, match="No template of seqrec fits"):
        fitting_templates(Example("seqrec", {}))
    with pytest.raises(ValueError, match="'chat' is unknown; the tasks are seqrec"):
        fitting_templates(Example("chat", {}))


@pytest.mark.parametrize("task", TASKS)
def test_draws_are_uniform_over_the_templates_and_choices(task: str) -> None:
    example = _example(task, ["x"])
    expected = 60
    cells = len(TEMPLATES[task]) * 6
    draws = Counter(draw_template(example, seed=3, epoch=1, row=row) for row in range(cells * expected))
    assert len(draws) == cells
    chi_square = sum((count - expected) ** 2 / expected for count in draws.values())
    assert abs(chi_square - cells) < 4 * (2 * cells) ** 0.5


def test_a_draw_depends_on_seed_epoch_task_and_row_and_on_nothing_else() -> None:
    example = _example("seqrec", ["x"])

    def draws(seed: int, epoch: int) -> list[Wording]:
        return [draw_template(example, seed, epoch, row) for row in range(50)]

    assert draws(1, 0) == draws(1, 0)
    assert draws(1, 0) != draws(1, 1)
    assert draws(1, 0) != draws(2, 0)
    assert [wording.template for wording in draws(1, 0)[:5]] == [15, 6, 10, 15, 4]  # the same on every machine
