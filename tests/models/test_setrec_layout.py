import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.models.setrec.layout import set_layout


def layout(lengths, max_history, before, num_tokens, instruction=0, response=0, rule="set"):
    return set_layout(torch.tensor(lengths), max_history, torch.tensor(before), num_tokens, instruction, response, rule)


def test_two_items_of_three_tokens_are_the_papers_drawing():
    """Identity inside an item and among the queries, everything before them (section 3.2.2)."""
    allowed = layout([2], 2, [[2]], 3).allowed[0, 0].int()
    assert allowed.tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 1, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 1],
    ]


def brute_force(length, max_history, before, num_tokens, instruction, response, rule):
    """The rule in words, token by token: (kind, branch, item, place) of each, and what it may see."""
    tokens = [("instruction", None, None, place) for place in range(instruction)]
    tokens += [("item", None, item, place) for item in range(max_history) for place in range(num_tokens)]
    tokens += [("response", b, None, place) for b in range(len(before)) for place in range(response)]
    tokens += [("query", b, None, place) for b in range(len(before)) for place in range(num_tokens)]

    def real(token):
        kind, branch, item, _ = token
        return item < length if kind == "item" else branch is None or before[branch] >= 0

    def sees(one, other):
        (kind, branch, item, place), (other_kind, other_branch, other_item, other_place) = one, other
        earlier = other_place < place
        if rule == "bidirectional":
            return other_kind != "query" or kind == "query"
        rules = {
            "instruction": lambda: kind != "instruction" or earlier,
            "item": {
                "instruction": lambda: False,
                "item": lambda: other_item < item or (other_item == item and earlier and rule == "causal"),
            }.get(kind, lambda: other_item < max(before[branch], 0)),
            "response": lambda: branch == other_branch and (kind == "query" or (kind == "response" and earlier)),
            "query": lambda: branch == other_branch and kind == "query" and earlier and rule == "causal",
        }
        return rules[other_kind]()

    def position(token):
        kind, branch, item, place = token
        if kind == "instruction":
            return place
        if kind == "item":
            return instruction + item
        start = instruction + max(before[branch], 0)
        return start + (place if kind == "response" else response)

    allowed = [
        [i == j or (real(other) and sees(one, other)) for j, other in enumerate(tokens)] for i, one in enumerate(tokens)
    ]
    return allowed, [position(token) for token in tokens]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equals_the_rule_in_words(data):
    rule = data.draw(st.sampled_from(["set", "causal", "bidirectional"]))
    max_history = data.draw(st.integers(0, 3))
    num_tokens, instruction, response = (data.draw(st.integers(low, 3)) for low in (1, 0, 0))
    branches = 1 if rule == "bidirectional" else data.draw(st.integers(1, 3))
    lengths = data.draw(st.lists(st.integers(0, max_history), min_size=1, max_size=2))
    before = [[data.draw(st.integers(-1, length)) for _ in range(branches)] for length in lengths]
    result = layout(lengths, max_history, before, num_tokens, instruction, response, rule)
    for row, (length, items_before) in enumerate(zip(lengths, before, strict=True)):
        allowed, positions = brute_force(length, max_history, items_before, num_tokens, instruction, response, rule)
        assert result.allowed[row, 0].tolist() == allowed
        assert result.positions[row].tolist() == positions


def test_tokens_of_an_item_share_a_position():
    positions = layout([2], 2, [[0, 2]], 3, instruction=2, response=1).positions[0].tolist()
    assert positions == [0, 1, 2, 2, 2, 3, 3, 3, 2, 4, 3, 3, 3, 5, 5, 5]


def test_bidirectional_attention_refuses_several_branches():
    with pytest.raises(ValueError, match="one example per prefix"):
        layout([2], 2, [[1, 2]], 3, rule="bidirectional")
