"""Rules against brute force: an item is ruled out or not, a node lives if an item under it is not."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import BatchRules, ItemSubsets, Rules, batch_rules
from llmrec.trie import Trie
from tests.strategies import id_sets, prefixes, rule_sets, satisfies


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, list[int]], list[Rules | None]]:
    """Semantic IDs, named subsets and the rules of a batch."""
    ids = draw(id_sets(max_items=25))
    items = st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=len(ids))
    subsets = draw(st.dictionaries(st.sampled_from(["films", "books", "games"]), items, max_size=3))
    rules = draw(st.lists(st.one_of(st.none(), rule_sets(ids, subsets)), min_size=1, max_size=5))
    return ids, subsets, rules


def make(
    ids: np.ndarray, subsets: Mapping[str, Sequence[int]], rules: Sequence[Rules | None]
) -> tuple[DeviceTrie, BatchRules]:
    device_trie = DeviceTrie(Trie.from_semantic_ids(ids), np.arange(5 * ids.shape[1]).reshape(-1, 5))
    return device_trie, BatchRules(device_trie, rules, ItemSubsets(device_trie, subsets))


@settings(deadline=None, max_examples=150)
@given(batches())
def test_a_node_is_allowed_where_an_item_under_it_satisfies_all_rules(batch: tuple) -> None:
    ids, subsets, rules = batch
    device_trie, limits = make(ids, subsets, rules)
    truth = np.stack([satisfies(ids, rule, subsets) for rule in rules])
    expected = [
        truth[:, (ids[:, :depth] == prefix).all(axis=1)].any(axis=1)
        for depth in range(ids.shape[1] + 1)
        for prefix in prefixes(ids, depth)
    ]
    nodes = torch.arange(device_trie.trie.num_nodes).expand(len(rules), -1)
    assert limits.allow(nodes).tolist() == np.stack(expected, axis=1).tolist()
    # any order and shape of nodes
    flipped = limits.allow(nodes.flip(1).unsqueeze(-1))
    assert flipped[..., 0].tolist() == np.stack(expected[::-1], axis=1).tolist()


@settings(deadline=None, max_examples=150)
@given(batches())
def test_each_place_and_each_run_is_allowed_where_its_items_are(batch: tuple) -> None:
    ids, subsets, rules = batch
    device_trie, limits = make(ids, subsets, rules)
    truth = np.stack([satisfies(ids, rule, subsets) for rule in rules])[:, device_trie.trie.items]
    places = torch.arange(len(ids)).expand(len(rules), -1)
    assert limits.allow_runs(places, places + 1).tolist() == truth.tolist()
    starts, ends = (torch.from_numpy(ends) for ends in np.triu_indices(len(ids) + 1))
    found = limits.allow_runs(starts.expand(len(rules), -1), ends.expand(len(rules), -1))
    runs = [truth[:, start:end].any(axis=1) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    assert found.tolist() == np.stack(runs, axis=1).tolist()


@settings(deadline=None, max_examples=60)
@given(batches(), st.randoms())
def test_a_users_rules_do_not_depend_on_who_else_is_in_the_batch(batch: tuple, random) -> None:
    ids, subsets, rules = batch
    order = random.sample(range(len(rules)), len(rules))
    device_trie, limits = make(ids, subsets, rules)
    _, shuffled = make(ids, subsets, [rules[user] for user in order])
    nodes = torch.arange(device_trie.trie.num_nodes)
    together = limits.allow(nodes.expand(len(rules), -1))
    assert shuffled.allow(nodes.expand(len(rules), -1)).tolist() == together[order].tolist()
    for user, rule in enumerate(rules):
        alone = make(ids, subsets, [rule])[1].allow(nodes.unsqueeze(0))
        assert alone[0].tolist() == together[user].tolist()


IDS = np.array([[0, 1, -1], [2, 0, 1], [0, 2, 0], [2, 0, 1], [3, -1, -1], [0, 2, 3]])
SUBSETS = {"films": [1, 4], "books": [0]}


def allowed_items(rule: Rules) -> list[int]:
    device_trie, limits = make(IDS, SUBSETS, [rule])
    places = torch.arange(len(IDS)).unsqueeze(0)
    return sorted(device_trie.items_at(places[limits.allow_runs(places, places + 1)]).tolist())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rules(exclude=[1]), [0, 2, 3, 4, 5]),  # 3 shares the semantic ID of 1
        (Rules(exclude=range(6)), []),
        (Rules(exclude=np.array([0, 0, 5])), [1, 2, 3, 4]),
        (Rules(allow=[5, 5, 3]), [3, 5]),
        (Rules(allow="films", exclude=[4]), [1]),
        (Rules(allow="films", require_prefix=[0]), []),
        (Rules(require_prefix=[3, -1]), [4]),  # the ID that ends there
        (Rules(require_prefix=[0], forbid_prefixes=[[0, 2, 3], [2], [0, 1]]), [2]),
        (Rules(require_prefix=[2, 0, 1]), [1, 3]),
    ],
)
def test_rules_together_leave_what_satisfies_them_all(rule: Rules, expected: list[int]) -> None:
    assert allowed_items(rule) == expected


def test_a_batch_without_rules_needs_none() -> None:
    device_trie, _ = make(IDS, {}, [None])
    subsets = ItemSubsets(device_trie, {})
    assert batch_rules(device_trie, None, subsets, 2) is None
    assert batch_rules(device_trie, [None, Rules()], subsets, 2) is None
    empty = Rules(exclude=np.array([], dtype=int), require_prefix=np.array([], dtype=int))
    assert batch_rules(device_trie, [None, empty], subsets, 2) is None
    assert batch_rules(device_trie, [None, Rules(exclude=[0])], subsets, 2) is not None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rules(exclude=[2, 6, 7]), "^exclude holds the item index 6; allowed are 0 to 5"),
        (Rules(exclude=[-1]), "^exclude holds the item index -1"),
        (Rules(allow=[9]), "^allow holds the item index 9; allowed are 0 to 5"),
        (Rules(allow=[]), "^allow is empty"),
        (Rules(allow="music"), r"^allow names the subset 'music'; this search knows \['books', 'films'\]"),
        (Rules(require_prefix=[1]), r"^require_prefix holds \[1\], which no item's semantic ID starts with"),
        (Rules(require_prefix=[0, 2, 0, 0]), r"^require_prefix holds \[0, 2, 0, 0\]; a prefix has 1 to 3 codes"),
        (Rules(forbid_prefixes=[[0], [2, 1]]), r"^forbid_prefixes holds \[2, 1\], which no item's"),
        (Rules(forbid_prefixes=[[0], []]), r"^forbid_prefixes holds \[\]; a prefix has 1 to 3 codes"),
    ],
)
def test_a_wrong_rule_is_named(rule: Rules, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(IDS, SUBSETS, [None, rule])


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ({"films": [1], "books": []}, "^The subset 'books' is empty"),
        ({"films": [6]}, "^The subset 'films' holds the item index 6; allowed are 0 to 5"),
    ],
)
def test_a_wrong_subset_is_named(subsets: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(IDS, subsets, [None])


def test_a_search_without_subsets_says_so() -> None:
    with pytest.raises(ValueError, match="this search knows none"):
        make(IDS, {}, [Rules(allow="films")])
