"""The trie's tensors against the trie itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.trie import END, Trie
from tests.strategies import id_sets, prefixes

EOS = 2
#: Scattered token ids, 5 codes a level, and none for a sixth.
TOKENS = np.array([[10, 31, 12, 33, 14, -1], [50, 9, 8, 7, 6, -1], [60, 62, 64, 66, 68, -1], [19, 18, 17, 16, 15, -1]])


def make(ids: np.ndarray) -> DeviceTrie:
    return DeviceTrie(Trie.from_semantic_ids(ids), TOKENS[: ids.shape[1]])


def nodes_at(trie: Trie, depth: int) -> list[int]:
    starts = (*trie.level_starts, trie.num_nodes)
    return list(range(starts[depth], starts[depth + 1]))


def full_tree(depth: int, codes: int) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(codes**depth), (codes,) * depth), axis=1)


#: Sparse levels nearly always, and dense ones.
CATALOGUES = st.one_of(id_sets(), st.builds(full_tree, st.integers(1, 3), st.integers(1, 3)))


@settings(deadline=None, max_examples=60)
@given(CATALOGUES)
def test_children_are_those_of_the_trie(ids: np.ndarray) -> None:
    device_trie = make(ids)
    trie = device_trie.trie
    for depth in range(trie.num_codebooks):
        nodes = [-1, *nodes_at(trie, depth), -1]
        children, codes, valid = device_trie.children(torch.tensor([nodes, nodes[::-1]]), depth)
        assert children.shape == codes.shape == valid.shape == (2, len(nodes), trie.max_children[depth])
        for row, order in enumerate((nodes, nodes[::-1])):
            for column, node in enumerate(order):
                expected = trie.children(node).tolist() if node >= 0 else []
                at = valid[row, column]
                assert codes[row, column][at].tolist() == expected
                for child, code in zip(children[row, column][at].tolist(), expected, strict=True):
                    assert trie.codes[child - 1] == code
                    assert trie.child_offsets[node] <= child - 1 < trie.child_offsets[node + 1]
        # what is not valid is looked up all the same
        assert 0 <= int(children.min()) <= int(children.max()) < trie.num_nodes


@settings(deadline=None, max_examples=60)
@given(CATALOGUES, st.lists(st.integers(-3, 80), max_size=20))
def test_a_step_follows_exactly_the_tokens_of_the_children(ids: np.ndarray, others: list[int]) -> None:
    device_trie = make(ids)
    trie = device_trie.trie
    for depth in range(trie.num_codebooks):
        tokens = [EOS, -1, 10**6, *TOKENS.flatten().tolist(), *others]
        grid_tokens = torch.tensor(tokens)
        for node in [-1, *nodes_at(trie, depth)]:
            codes = trie.children(node).tolist() if node >= 0 else []
            named = [EOS if code == END else int(TOKENS[depth, code]) for code in codes]
            first_child = int(trie.child_offsets[max(node, 0)]) + 1
            expected = [first_child + named.index(token) if token in named else -1 for token in tokens]
            if node > 0 and trie.codes[node - 1] == END:
                expected = [first_child] * len(tokens)  # whatever comes after the end is padding
            found = device_trie.step(torch.full_like(grid_tokens, node), grid_tokens, depth, EOS)
            assert found.tolist() == expected


@settings(deadline=None, max_examples=60)
@given(CATALOGUES)
def test_stepping_through_every_id_ends_at_its_leaf(ids: np.ndarray) -> None:
    device_trie = make(ids)
    nodes = torch.zeros(len(ids), dtype=torch.long)
    for depth, codes in enumerate(ids.T):
        tokens = np.where(codes == END, EOS, TOKENS[depth][codes])
        nodes = device_trie.step(nodes, torch.from_numpy(tokens), depth, EOS)
        np.testing.assert_array_equal(nodes.numpy(), device_trie.trie.walk(ids[:, : depth + 1]))


@settings(deadline=None, max_examples=60)
@given(CATALOGUES)
def test_runs_and_their_items_are_those_of_the_trie(ids: np.ndarray) -> None:
    device_trie = make(ids)
    trie = device_trie.trie
    nodes = torch.arange(trie.num_nodes).view(1, -1, 1)
    starts, ends = device_trie.item_range(nodes)
    expected = trie.item_range(nodes.numpy())
    assert starts.dtype == ends.dtype == torch.long
    np.testing.assert_array_equal(starts.numpy(), expected[0])
    np.testing.assert_array_equal(ends.numpy(), expected[1])
    places = torch.arange(trie.num_items).view(-1, 1)
    np.testing.assert_array_equal(device_trie.items_at(places).numpy(), trie.items[places.numpy()])
    for depth in range(trie.num_codebooks + 1):
        for node, prefix in zip(nodes_at(trie, depth), prefixes(ids, depth), strict=True):
            run = torch.arange(int(starts[0, node, 0]), int(ends[0, node, 0]))
            under = (ids[:, :depth] == prefix).all(axis=1)
            assert sorted(device_trie.items_at(run).tolist()) == np.flatnonzero(under).tolist()


@settings(deadline=None, max_examples=60)
@given(CATALOGUES, st.data())
def test_a_prompt_spells_the_items_whose_whole_ids_stand_in_it(ids: np.ndarray, data: st.DataObject) -> None:
    device_trie = make(ids)
    spelt = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=5))
    tokens, expected = [99], []
    for item in spelt:
        codes = [code for code in ids[item].tolist() if code != END]
        kept = data.draw(st.integers(1, len(codes)))  # some IDs break off
        tokens += [int(device_trie.code_tokens[level][code]) for level, code in enumerate(codes[:kept])]
        tokens += data.draw(st.sampled_from([[], [99]]))
        whole = [*codes[:kept], *[END] * (ids.shape[1] - kept)]
        found = np.flatnonzero((ids == whole).all(axis=1))
        expected += found[:1].tolist()
    assert device_trie.spelt_items(tokens) == expected


@pytest.mark.parametrize("saved", [False, True])
def test_on_the_cpu_its_tensors_are_the_arrays_of_the_trie(tmp_path: Path, saved: bool) -> None:
    trie = Trie.from_semantic_ids(np.array([[0, 2, 1], [0, 1, -1], [1, 1, 1], [0, 2, 1]]))
    if saved:
        trie.save(tmp_path / "trie")
        trie = Trie.load(tmp_path / "trie")
    device_trie = DeviceTrie(trie, TOKENS[:3])
    pairs = [
        (device_trie.child_offsets, trie.child_offsets),
        (device_trie.codes, trie.codes),
        (device_trie.item_starts, trie.item_starts),
        (device_trie._items, trie.items),
    ]
    for tensor, array in pairs:
        assert isinstance(array, np.memmap) == saved
        assert tensor.data_ptr() == array.ctypes.data
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_the_tokens_of_a_level_are_those_of_the_codes_in_use() -> None:
    device_trie = make(np.array([[0, 2, 1], [0, 1, -1], [1, 1, 3]]))
    assert [tokens.tolist() for tokens in device_trie.code_tokens] == [[10, 31], [50, 9, 8], [60, 62, 64, 66]]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS[:2], "3 levels, so it needs as many rows"),
        (TOKENS[0], "needs as many rows"),
        (TOKENS[:3, :3], "code 3 at level 2, but the vocabulary has tokens for the codes 0 to 2 there"),
        (np.where(TOKENS[:3] == 66, -1, TOKENS[:3]), "code 3 at level 2"),
    ],
)
def test_a_code_without_a_token_is_refused(tokens: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeviceTrie(Trie.from_semantic_ids(np.array([[0, 2, 1], [0, 1, -1], [1, 1, 3]])), tokens)
