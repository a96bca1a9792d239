"""What lives on: the best against brute force, and samples without replacement against their probabilities."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import Rules
from llmrec.decoding.selection import best, gumbel_children
from llmrec.trie import Trie
from tests.decoding.oracle import oracle_scores
from tests.tiny import make_architecture

INF = float("inf")


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]]]:
    """Scores, many of them equal or -inf, and the group of each."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 20)))
    score = st.sampled_from([-INF, -INF, -3.5, -1.0, -0.5, 0.0, 2.0, 2.25])
    distinct = draw(st.booleans())
    rows = st.lists(score if not distinct else st.floats(-9, 9, width=32), min_size=shape[1], max_size=shape[1])
    groups = st.lists(st.integers(-1, 4), min_size=shape[1], max_size=shape[1])
    return tuple(draw(st.lists(each, min_size=shape[0], max_size=shape[0])) for each in (rows, groups))


@settings(deadline=None, max_examples=150)
@given(scored(), st.integers(1, 25), st.none() | st.integers(1, 4))
def test_the_best_are_those_of_brute_force(
    case: tuple[list[list[float]], list[list[int]]], count: int, per_group: int | None
) -> None:
    scores, groups = case
    chosen, index = best(torch.tensor(scores), count, torch.tensor(groups), per_group)
    assert chosen.shape == index.shape == (len(scores), min(count, len(scores[0])))
    for row, group, values, places in zip(scores, groups, chosen.tolist(), index.tolist(), strict=True):
        expected, taken = [], Counter()
        for place in sorted(range(len(row)), key=lambda place: -row[place]):
            if row[place] > -INF and (per_group is None or taken[group[place]] < per_group):
                taken[group[place]] += 1
                expected.append(row[place])
        expected = [*expected, *[-INF] * len(row)][: len(values)]
        assert values == expected
        # the places are those of the scores, each once, and no group has more than its share
        live = [place for place, value in zip(places, values, strict=True) if value > -INF]
        assert [row[place] for place in live] == [value for value in values if value > -INF]
        assert len(set(places)) == len(places)
        if per_group is not None:
            assert max(Counter(group[place] for place in live).values(), default=0) <= per_group


@pytest.mark.parametrize("groups", [None, torch.tensor([[0, 0, 1]])])
def test_without_a_limit_groups_do_not_count(groups: torch.Tensor | None) -> None:
    chosen, index = best(torch.tensor([[1.0, 3.0, 2.0]]), 2, groups)
    assert (chosen.tolist(), index.tolist()) == ([[3.0, 2.0]], [[1, 2]])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.1, 60), st.booleans())
def test_the_largest_child_has_its_parents_value(seed: int, width: int, spread: float, some_dead: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    parents = torch.randn(3, 4, generator=generator) * spread
    log_probs = torch.randn(3, 4, width, generator=generator) * spread
    if some_dead:
        log_probs = log_probs.masked_fill(torch.rand(log_probs.shape, generator=generator) < 0.4, -INF)
        parents[0, 0], log_probs[0, 0] = -INF, -INF
    children = gumbel_children(parents, log_probs, generator)
    assert not children.isnan().any()
    assert torch.equal(children == -INF, log_probs == -INF)
    alive = (log_probs > -INF).any(-1)
    torch.testing.assert_close(children.amax(-1)[alive], parents[alive])


def test_the_argmax_of_children_follows_their_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    # whatever the parent's value is
    parents = torch.linspace(-5, 5, draws)
    children = gumbel_children(parents, probabilities.log().expand(draws, -1), generator)
    assert_frequencies(children.argmax(-1).bincount(minlength=4), probabilities)


def assert_frequencies(counts: torch.Tensor, probabilities: torch.Tensor, errors: float = 4.5) -> None:
    draws = counts.sum()
    deviation = (counts / draws - probabilities).abs() / (probabilities * (1 - probabilities) / draws).sqrt()
    assert deviation[probabilities > 0].max() < errors
    assert counts[probabilities == 0].sum() == 0


PROMPT = [5, 90, 17]
#: One item ends early, and paths to the others are shared.
FIVE = np.array([[0, 1, -1], [2, 0, 1], [0, 2, 0], [2, 0, 3], [2, 3, 3]])


@pytest.fixture(scope="module")
def search() -> BeamSearch:
    model, _ = make_architecture("qwen3")
    for parameter in model.parameters():
        parameter.data.div_(1.7)  # all five items get a fair share
    return BeamSearch(model, DeviceTrie(Trie.from_semantic_ids(FIVE), np.arange(308, 320).reshape(3, 4)))


def policy(search: BeamSearch, allowed: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of all items, from a catalogue that holds only the allowed ones."""
    trie = DeviceTrie(Trie.from_semantic_ids(FIVE[allowed]), np.arange(308, 320).reshape(3, 4))
    log_probs = torch.full((len(FIVE),), -INF)
    head, search.model.lm_head = search.model.lm_head, ScaledHead(search.model.lm_head, temperature)
    try:
        log_probs[allowed] = oracle_scores(search.model, PROMPT, trie, "catalog")
    finally:
        search.model.lm_head = head
    return log_probs


class ScaledHead(torch.nn.Module):
    def __init__(self, head: torch.nn.Module, temperature: float) -> None:
        super().__init__()
        self.head, self.temperature = head, temperature

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.head(states) / self.temperature


CASES = [([0, 1, 2, 3, 4], 1.0, None), ([0, 1, 3, 4], 1.0, Rules(exclude=[2])), ([0, 1, 2, 3, 4], 2.5, None)]


@pytest.mark.parametrize(("allowed", "temperature", "rule"), CASES)
def test_samples_are_drawn_without_replacement_with_their_probabilities(
    search: BeamSearch, allowed: list[int], temperature: float, rule: Rules | None
) -> None:
    draws = 6000
    generator = torch.Generator().manual_seed(3)
    drawn = search.sample([PROMPT] * draws, 2, [rule] * draws, temperature, generator)
    log_probs = policy(search, allowed, temperature)
    p = log_probs.exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
    pairs = p.unsqueeze(1) * p / (1 - p.unsqueeze(1))
    pairs.fill_diagonal_(0)
    assert pairs[pairs > 0].min() * draws > 5  # enough of each for its standard error to mean something
    assert_frequencies((drawn.items[:, 0] * 5 + drawn.items[:, 1]).bincount(minlength=25), pairs.flatten())
    torch.testing.assert_close(drawn.scores, log_probs[drawn.items], atol=1e-4, rtol=1e-4)


def test_drawing_more_than_there_is_gives_every_item_once(search: BeamSearch) -> None:
    drawn = search.sample([PROMPT] * 50, 7, [Rules(exclude=[3])] * 50, generator=torch.Generator().manual_seed(0))
    assert {tuple(sorted(items)) for items in drawn.items[:, :4].tolist()} == {(0, 1, 2, 4)}
    assert (drawn.items[:, 4:] == -1).all()
    assert (drawn.scores[:, 4:] == -INF).all()
    assert len({tuple(items) for items in drawn.items.tolist()}) > 5


def test_users_of_one_batch_draw_by_their_own_rules(search: BeamSearch) -> None:
    rules = [None, Rules(exclude=[0, 1]), Rules(allow=[4]), Rules(require_prefix=[0]), Rules(exclude=range(5))] * 200
    drawn = search.sample([PROMPT] * len(rules), 2, rules, generator=torch.Generator().manual_seed(0))
    for user, expected in enumerate([{0, 1, 2, 3, 4}, {2, 3, 4}, {4, -1}, {0, 2}, {-1}]):
        assert set(drawn.items[user::5].flatten().tolist()) == expected
    torch.testing.assert_close(drawn.scores[2::5, 0], torch.zeros(200))  # nothing else could be drawn


def test_the_kind_of_scores_changes_nothing_in_a_sample(search: BeamSearch) -> None:
    other = BeamSearch(search.model, search.trie, "catalog")
    first, second = (
        each.sample([PROMPT] * 20, 3, generator=torch.Generator().manual_seed(1)) for each in (search, other)
    )
    assert first.items.tolist() == second.items.tolist()
    torch.testing.assert_close(first.scores, second.scores)


def test_one_seed_gives_the_same_draws_and_another_one_others(search: BeamSearch) -> None:
    seeded = [search.sample([PROMPT] * 50, 3, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)]
    assert seeded[0].items.tolist() == seeded[1].items.tolist()
    assert seeded[0].scores.tolist() == seeded[1].scores.tolist()
    assert seeded[0].items.tolist() != seeded[2].items.tolist()
    generator = torch.Generator().manual_seed(7)
    first, second = (search.sample([PROMPT] * 50, 3, generator=generator) for _ in range(2))
    assert first.items.tolist() == seeded[0].items.tolist() != second.items.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"num_samples": 0}, "num_beams is 0"),
        ({"rules": [None, None]}, "2 rules for 1 prompts"),
        ({"prompts": [[]]}, "Prompt 0 is empty"),
    ],
)
def test_bad_arguments_of_a_sample_are_refused(search: BeamSearch, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search.sample(**{"prompts": [PROMPT], "num_samples": 2, **arguments})
