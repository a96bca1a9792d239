"""The paper's numbers of templates, and slots that the data can fill."""

from collections import Counter

import pytest

from llmrec.prompts.lcrec import CHOICES, RESPONSE_MARKER
from llmrec.prompts.lcrec_rows import FIELDS
from llmrec.prompts.lcrec_templates import TASKS, TEMPLATES, parts

ALL = [template for templates in TEMPLATES.values() for template in templates]


def test_each_task_has_the_papers_number_of_templates() -> None:
    assert tuple(TEMPLATES) == TASKS
    assert [len(TEMPLATES[task]) for task in TASKS] == [17, 19, 17, 12, 11, 11]


@pytest.mark.parametrize(
    ("task", "counts"),
    [
        ("item2index", [6, 6, 7]),
        ("index2item", [6, 6, 5]),
        ("fusionseqrec", [4, 4, 4]),
        ("itemsearch", [1, 1, 1, 3, 5]),
    ],
)
def test_each_group_has_the_papers_number_of_templates(task: str, counts: list[int]) -> None:
    assert list(Counter(template.group for template in TEMPLATES[task]).values()) == counts


def test_no_wording_is_used_twice_or_holds_the_marker_or_an_item_token() -> None:
    assert len({" ".join(template.text.lower().split()) for template in ALL}) == len(ALL)
    assert not any(RESPONSE_MARKER.strip() in template.text or "<" in template.text for template in ALL)


@pytest.mark.parametrize("template", ALL, ids=lambda template: f"{template.task}-{template.text[:20]}")
def test_slots_are_fields_of_the_task_and_the_answer_is_not_in_the_question(template) -> None:
    available = {*FIELDS[template.task], *CHOICES}
    asked = {slot for _, slot in parts(template.text) if slot}
    answered = {slot for _, slot in parts(template.completion) if slot}
    assert asked <= available
    assert answered <= available
    assert asked
    assert answered
    assert not asked & answered
    assert len(template.text) < 250


def test_wordings_of_one_group_need_the_same_fields() -> None:
    slots: dict[tuple[str, str], set[frozenset[str]]] = {}
    for template in ALL:
        slots.setdefault((template.task, template.group), set()).add(template.slots)
    assert all(len(needed) == 1 for needed in slots.values())
