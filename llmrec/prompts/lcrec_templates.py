"""LC-Rec's 87 templates, worded afresh: 17 + 19 + 17 + 12 + 11 + 11 (arXiv 2311.09049, section III-C).

A slot in braces takes one field of an example. ``history`` and ``item`` take items, all others take text. The numbers
of templates in each group are the paper's; the wording is ours. A task's templates differ in length, tone and in
whether the request comes before or after the data, so that the model learns the task rather than one sentence.
"""

from collections.abc import Sequence
from string import Formatter
from typing import NamedTuple

TASKS = ("seqrec", "item2index", "index2item", "fusionseqrec", "itemsearch", "preferenceobtain")


class Template(NamedTuple):
    """One wording of a task.

    Attributes:
        task: one of ``TASKS``.
        group: which fields the wording needs, e.g. "title", "description" or "title_description" of item2index.
        text: the prompt, with named slots in braces.
        completion: the answer, with named slots in braces.
    """

    task: str
    group: str
    text: str
    completion: str

    @property
    def slots(self) -> frozenset[str]:
        """Names of the fields that prompt and completion need."""
        return frozenset(slot for _, slot in [*parts(self.text), *parts(self.completion)] if slot)


def parts(text: str) -> list[tuple[str, str | None]]:
    """(literal text, slot that follows it or None) pairs of a template's text."""
    return [(literal, slot) for literal, slot, _, _ in Formatter().parse(text)]


def _group(task: str, group: str, completion: str, texts: Sequence[str]) -> tuple[Template, ...]:
    return tuple(Template(task, group, text, completion) for text in texts)


_SEQREC = _group(
    "seqrec",
    "history",
    "{item}",
    (
        "A user chose these items, oldest first: {history}. Which item comes next?",
        "History, in order of time: {history}\nName the next item.",
        "Here is everything one person picked so far, from first to latest:\n{history}\n"
        "Work out what they are most likely to pick after that.",
        "{history}\n\nThat was the path of one customer through the catalogue. Continue it by one item.",
        "Read the sequence {history} and extend it with the item that fits best.",
        "You run the recommendations of a store. A visitor's record, earliest entry first, reads {history}. "
        "Put one item in front of this visitor.",
        "What would you recommend to somebody whose past choices were {history}?",
        "After {history}, what does this user want?",
        "Task: next-item recommendation.\nPast items: {history}\nNext item:",
        "Someone has gone through {history}, the newest last. Tell me their following choice.",
        "Please suggest a single item for the owner of this history; its latest entry stands at the end: {history}",
        "Given the timeline {history}, decide what belongs at its end.",
        "We logged {history} for one account. Our guess for the coming visit should be a single item; make that guess.",
        "Look at how this user's choices developed: {history}. Where does their taste lead now?",
        "One more item is missing from this list, sorted by time: {history}. Fill it in.",
        "A regular of ours picked {history} over the past months, the newest last. What should we set aside for them?",
        "Recommend. The user's items so far are {history}.",
    ),
)

_ITEM2INDEX = (
    *_group(
        "item2index",
        "title",
        "{item}",
        (
            'Which item has the title "{title}"?',
            "Title: {title}\nItem:",
            'Find "{title}" in the catalogue.',
            'An item is sold under the name "{title}". Write its identifier.',
            "Turn this title into the item it stands for: {title}",
            'I only remember what it is called, "{title}". Which one is it?',
        ),
    ),
    *_group(
        "item2index",
        "description",
        "{item}",
        (
            "Which item is described here?\n{description}",
            "Description: {description}\nItem:",
            "{description}\n\nThis is what the catalogue says about an item. Identify the item.",
            "Read the text below and answer with the item that it is about.\n{description}",
            "A page of our catalogue lost its heading. What is left of it reads: {description} Whose page is it?",
            "Match this description to its item: {description}",
        ),
    ),
    *_group(
        "item2index",
        "title_description",
        "{item}",
        (
            'Which item is called "{title}" and is described as follows?\n{description}',
            "Title: {title}\nDescription: {description}\nItem:",
            'Here is a catalogue entry. Its heading is "{title}". Its text: {description} Give its identifier.',
            '{description}\n\nThe text above belongs to "{title}". Point to the item.',
            'Look up one item. Name: "{title}". Details: {description}',
            'Somebody shows you a thing named "{title}" and reads its label aloud: {description} Say which item of the '
            "catalogue it is.",
            "From title and text to item.\nThe title is {title}\nThe text is {description}",
        ),
    ),
)

_INDEX2ITEM = (
    *_group(
        "index2item",
        "title",
        "{title}",
        (
            "What is the title of {item}?",
            "Item: {item}\nTitle:",
            "Tell me what {item} is called.",
            "Write out the name under which {item} is listed in the catalogue.",
            "A shopping list contains {item}. Translate this entry into a title that a person can read.",
            "{item} needs a heading. Supply its title.",
        ),
    ),
    *_group(
        "index2item",
        "description",
        "{description}",
        (
            "Describe {item}.",
            "Item: {item}\nDescription:",
            "What does the catalogue say about {item}?",
            "A customer asks for the details of {item}. Give them the description.",
            "Write the text that stands on the page of {item}.",
            "Explain in a few sentences what sort of thing {item} is.",
        ),
    ),
    *_group(
        "index2item",
        "title_description",
        "{title}\n\n{description}",
        (
            "Give the title of {item}, then its description.",
            "Item: {item}\nTitle and description:",
            "Print the full catalogue entry of {item}: heading first, an empty line, then the text.",
            "Introduce {item} to somebody who has never come across it, starting with its name.",
            "What is {item} called, and what is it like?",
        ),
    ),
)

_FUSIONSEQREC = (
    *_group(
        "fusionseqrec",
        "next_title",
        "{title}",
        (
            "A user's items, oldest first: {history}. What is the title of the item they choose next?",
            "After {history}, the same person picks something else. Write down its name.",
            "History: {history}\nTitle of the next item:",
            "Going by the record {history}, say in words which title this user should be offered.",
        ),
    ),
    *_group(
        "fusionseqrec",
        "next_description",
        "{description}",
        (
            "A user's items, oldest first: {history}. Describe the item they choose next.",
            "What will the owner of the history {history} look for now? Answer with a description of that item.",
            "History: {history}\nDescription of the next item:",
            "Somebody picked {history} one after the other. Sketch the thing that fits in behind these.",
        ),
    ),
    *_group(
        "fusionseqrec",
        "title_history",
        "{item}",
        (
            "A user chose these titles, oldest first: {titles}. Which item comes next?",
            "Titles in order of time: {titles}\nNext item:",
            "Here is what a visitor went for, written out by name: {titles}. Pick the item to show them now.",
            "Knowing that someone enjoyed {titles}, the newest last, recommend one item of the catalogue.",
        ),
    ),
)

_ITEMSEARCH = (
    *_group(
        "itemsearch",
        "history_preference",
        "{item}",
        ("A user chose {history} so far, and we know about their taste: {preference} Find an item that suits them.",),
    ),
    *_group(
        "itemsearch",
        "history_user_intention",
        "{item}",
        ("Someone with the history {history} has something in mind. {user_intention} Which item do they mean?",),
    ),
    *_group(
        "itemsearch",
        "history_item_intention",
        "{item}",
        ("The items {history} led a customer to a new wish. The thing they want: {item_intention} Find it for them.",),
    ),
    *_group(
        "itemsearch",
        "history_preference_query",
        "{item}",
        (
            "Past items: {history}\nTaste: {preference}\nRequest: {query}\nBest match:",
            "Serve this search. The person behind it chose {history} before. What they generally like: {preference} "
            "What they ask for today: {query}",
            "{query}\n\nSo reads a request from a user whose history is {history} and whose preference can be put like "
            "this: {preference} Answer it with one item.",
        ),
    ),
    *_group(
        "itemsearch",
        "query",
        "{item}",
        (
            "Search query: {query}\nResult:",
            "Which item answers this request? {query}",
            "A visitor tells the shop assistant: {query} Hand over the right item.",
            "{query}\n\nFind the item that this is about.",
            "Search the catalogue for one item that satisfies the following wish. {query}",
        ),
    ),
)

_PREFERENCEOBTAIN = _group(
    "preferenceobtain",
    "history",
    "{preference}",
    (
        "A user's items, oldest first: {history}. Describe this user's taste.",
        "History: {history}\nPreference:",
        "What does someone like who chose {history}?",
        "Sum up in words what the choices {history} have in common.",
        "{history}\n\nWrite a short profile of the person behind these choices.",
        "We want to know our customer better. Their record is {history}. What are they fond of?",
        "From {history}, infer what this user looks for in an item.",
        "Explain the preferences that show in the sequence {history}.",
        "Picture the owner of the items {history}. Which interests do they have?",
        "Tell a colleague, who can't see the history {history}, what kind of things this user goes for.",
        "State the taste of a user whose items, ordered by time, are {history}.",
    ),
)

#: Task -> its templates. 17, 19 (6 + 6 + 7), 17 (6 + 6 + 5), 12 (4 + 4 + 4), 11 (1 + 1 + 1 + 3 + 5) and 11.
TEMPLATES: dict[str, tuple[Template, ...]] = {
    "seqrec": _SEQREC,
    "item2index": _ITEM2INDEX,
    "index2item": _INDEX2ITEM,
    "fusionseqrec": _FUSIONSEQREC,
    "itemsearch": _ITEMSEARCH,
    "preferenceobtain": _PREFERENCEOBTAIN,
}
