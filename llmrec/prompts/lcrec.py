"""LC-Rec's alignment tasks as prompt / completion pairs of typed segments (arXiv 2311.09049, section III-C)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from llmrec.prompts.lcrec_templates import TASKS, TEMPLATES, Template, parts
from llmrec.prompts.segments import Segment, joined, merged

__all__ = [
    "CHOICES",
    "RESPONSE_MARKER",
    "TASKS",
    "TEMPLATES",
    "Example",
    "Template",
    "Wording",
    "draw_template",
    "fitting_templates",
    "render",
    "seqrec_prompt",
]

#: Ends every prompt; the completion follows.
RESPONSE_MARKER = "\nAnswer:\n"

#: A slot that takes any one of several fields, drawn like the template.
CHOICES: dict[str, tuple[str, ...]] = {
    "query": ("user_intention", "item_intention"),
    "preference": ("overall_preference", "long_term_preference", "short_term_preference"),
}
_NUM_CHOICES = 6  # a multiple of the length of every entry of CHOICES


@dataclass(frozen=True)
class Example:
    """One row of an instruction table: the fields that the task's templates draw on, without any wording.

    Attributes:
        task: one of ``TASKS``.
        fields: field name -> its segments. A list (a history, quoted titles) has one segment for each entry; they are
            joined by ", " when rendered. What a row lacks, such as the description of an item without one, is absent.
        user_id: whose example it is; None where it is about an item only.
    """

    task: str
    fields: Mapping[str, Sequence[Segment]]
    user_id: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Example":
        """An example from a row of an instruction table, as ``pa.Table.to_pylist`` or ``datasets`` gives it."""
        fields = {
            name: [Segment(segment["kind"], segment["value"]) for segment in value]
            for name, value in row.items()
            if isinstance(value, list)
        }
        return cls(row["task"], fields, row["user_id"])


class Wording(NamedTuple):
    """How an example is put into words.

    Attributes:
        template: index into ``TEMPLATES[task]``.
        choice: which of several fields a slot of ``CHOICES`` takes, counted round.
    """

    template: int
    choice: int = 0


def fitting_templates(example: Example) -> list[int]:
    """Indices into ``TEMPLATES[example.task]`` of the templates for which the example has every field.

    Raises:
        ValueError: if the task is unknown, or no template fits.
    """
    if example.task not in TEMPLATES:
        raise ValueError(f"Task {example.task!r} is unknown; the tasks are {', '.join(TASKS)}.")
    names = {name for name, segments in example.fields.items() if segments}
    names |= {slot for slot, choices in CHOICES.items() if names.issuperset(choices)}
    fitting = [index for index, template in enumerate(TEMPLATES[example.task]) if template.slots <= names]
    if not fitting:
        raise ValueError(f"No template of {example.task} fits an example with the fields {sorted(example.fields)}.")
    return fitting


def draw_template(example: Example, seed: int, epoch: int, row: int) -> Wording:
    """The wording of one row in one epoch: uniform over the templates that fit, a function of its arguments only.

    Args:
        example: the row's example.
        seed: of the run.
        epoch: from 0.
        row: of the task's table.
    """
    fitting = fitting_templates(example)
    key = f"{seed}/{epoch}/{example.task}/{row}".encode()
    number = int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
    return Wording(fitting[number % len(fitting)], number // len(fitting) % _NUM_CHOICES)


def render(example: Example, wording: Wording | int) -> tuple[list[Segment], list[Segment]]:
    """Prompt and completion of an example.

    Args:
        example: what to say.
        wording: how to say it: from ``draw_template``, or the index of a template of the task.

    Returns:
        prompt segments, which end with ``RESPONSE_MARKER``, and completion segments; neighbouring text is merged.

    Raises:
        ValueError: if the example lacks a field that the template needs.
    """
    wording = Wording(wording) if isinstance(wording, int) else wording
    template = TEMPLATES[example.task][wording.template]
    prompt = [*_fill(template.text, example, wording), Segment("text", RESPONSE_MARKER)]
    return merged(prompt), merged(_fill(template.completion, example, wording))


def seqrec_prompt(history: Sequence[str], template: int = 0) -> list[Segment]:
    """The question for the item after ``history``, worded as in training; for evaluation and serving.

    Args:
        history: item ids, oldest first.
        template: index into ``TEMPLATES["seqrec"]``, 0 to 16.
    """
    fields = {"history": [Segment("item", item_id) for item_id in history]}
    text = _fill(TEMPLATES["seqrec"][template].text, Example("seqrec", fields), Wording(template))
    return merged([*text, Segment("text", RESPONSE_MARKER)])


def _fill(text: str, example: Example, wording: Wording) -> list[Segment]:
    # the template is cut at its slots once: braces inside a field are never read as slots
    segments: list[Segment] = []
    for literal, slot in parts(text):
        segments.append(Segment("text", literal))
        if slot is not None:
            segments += joined(_field(example, slot, wording))
    return segments


def _field(example: Example, slot: str, wording: Wording) -> Sequence[Segment]:
    choices = CHOICES.get(slot, (slot,))
    name = choices[wording.choice % len(choices)]
    if name not in example.fields:
        raise ValueError(
            f"Template {wording.template} of {example.task} needs the field {name!r}; the example has "
            f"{sorted(example.fields)}. Take a template from fitting_templates(example)."
        )
    return example.fields[name]
