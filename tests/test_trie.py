"""The trie against brute force over all prefixes."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.trie import Trie
from tests.strategies import id_sets, prefixes
from tests.tiny import random_semantic_ids

ARRAYS = ("child_offsets", "codes", "item_starts", "items")


def assert_same(first: Trie, second: Trie) -> None:
    for name in ARRAYS:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert first.level_starts == second.level_starts


def node_of(trie: Trie, prefix: tuple[int, ...]) -> int:
    return int(trie.walk(np.array([prefix], dtype=np.int64).reshape(1, len(prefix)))[0])


def items_with(ids: np.ndarray, prefix: tuple[int, ...]) -> list[int]:
    return np.flatnonzero((ids[:, : len(prefix)] == prefix).all(axis=1)).tolist()


def continuations(ids: np.ndarray, prefix: tuple[int, ...]) -> list[int]:
    return np.unique(ids[items_with(ids, prefix), len(prefix)]).tolist()


@settings(deadline=None, max_examples=60)
@given(id_sets())
def test_children_are_exactly_the_codes_that_lead_to_an_item(ids: np.ndarray) -> None:
    trie = Trie.from_semantic_ids(ids)
    seen = []
    for depth in range(ids.shape[1] + 1):
        for prefix in prefixes(ids, depth):
            node = node_of(trie, prefix)
            seen.append(node)
            expected = continuations(ids, prefix) if depth < ids.shape[1] else []
            assert trie.children(node).tolist() == expected
    # breadth first, siblings in the order of their codes
    assert seen == list(range(trie.num_nodes))


@settings(deadline=None, max_examples=60)
@given(id_sets())
def test_every_item_is_reached_and_the_items_under_a_node_are_one_run(ids: np.ndarray) -> None:
    trie = Trie.from_semantic_ids(ids)
    np.testing.assert_array_equal(trie.semantic_ids, ids)
    assert trie.num_items == len(ids)
    for depth in range(ids.shape[1] + 1):
        nodes = trie.walk(ids[:, :depth])
        starts, ends = trie.item_range(nodes)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            assert sorted(trie.items[start:end].tolist()) == items_with(ids, tuple(ids[row, :depth]))
        square = trie.item_range(np.stack([nodes, nodes]))
        np.testing.assert_array_equal(square[0][1], starts)
        np.testing.assert_array_equal(square[1][0], ends)
    np.testing.assert_array_equal(trie.items[trie.item_positions], np.arange(len(ids)))


@settings(deadline=None, max_examples=60)
@given(id_sets())
def test_items_stand_in_the_order_of_their_ids_and_those_of_one_leaf_in_their_own(ids: np.ndarray) -> None:
    expected = sorted(range(len(ids)), key=lambda item: (ids[item].tolist(), item))
    assert Trie.from_semantic_ids(ids).items.tolist() == expected


@settings(deadline=None, max_examples=60)
@given(id_sets(), st.lists(st.lists(st.integers(-2, 7), min_size=4, max_size=4), min_size=1, max_size=20))
def test_an_unknown_prefix_is_minus_one_whatever_its_codes(ids: np.ndarray, drawn: list[list[int]]) -> None:
    trie = Trie.from_semantic_ids(ids)
    for depth in range(ids.shape[1] + 1):
        tried = [prefix[:depth] for prefix in drawn]
        known = prefixes(ids, depth)
        nodes = trie.walk(np.array(tried, dtype=np.int64).reshape(len(tried), depth))
        expected = [trie.level_starts[depth] + known.index(tuple(p)) if tuple(p) in known else -1 for p in tried]
        assert nodes.tolist() == expected


@settings(deadline=None, max_examples=60)
@given(id_sets())
def test_what_it_says_of_each_level_is_true(ids: np.ndarray) -> None:
    trie = Trie.from_semantic_ids(ids)
    depth = ids.shape[1]
    followers = [[continuations(ids, prefix) for prefix in prefixes(ids, level)] for level in range(depth)]
    assert trie.num_codebooks == depth
    assert trie.num_codes == tuple(int(codes.max()) + 1 for codes in ids.T)
    assert trie.max_children == tuple(max(map(len, level)) for level in followers)
    assert trie.has_end == tuple(bool((codes == -1).any()) for codes in ids.T)
    assert trie.is_dense == tuple(
        all(codes == list(range(count)) for codes in level)
        for level, count in zip(followers, trie.num_codes, strict=True)
    )
    leaves = prefixes(ids, depth)
    assert trie.max_leaf_items == max(len(items_with(ids, leaf)) for leaf in leaves)
    assert trie.num_nodes == sum(len(prefixes(ids, level)) for level in range(depth + 1))
    assert trie.first_leaf == trie.num_nodes - len(leaves)


def test_a_level_is_dense_only_where_every_node_has_every_code() -> None:
    full = np.stack(np.unravel_index(np.arange(12), (3, 2, 2)), axis=1)
    assert Trie.from_semantic_ids(full).is_dense == (True, True, True)
    assert Trie.from_semantic_ids(full[1:]).is_dense == (True, True, False)
    # every node has as many children as there are codes, but one of them is an end
    assert Trie.from_semantic_ids(np.array([[0, -1], [1, 0]])).is_dense == (True, False)


@settings(deadline=None, max_examples=60)
@given(id_sets(), st.data())
def test_extending_equals_building_anew(ids: np.ndarray, data: st.DataObject) -> None:
    # the first part must hold a longest ID
    longest = int((ids >= 0).sum(axis=1).argmax())
    ids = np.concatenate([ids[longest : longest + 1], np.delete(ids, longest, axis=0)])
    known = data.draw(st.integers(1, len(ids)))
    extended = Trie.from_semantic_ids(ids[:known]).extend(ids[known:])
    assert_same(extended, Trie.from_semantic_ids(ids))
    np.testing.assert_array_equal(extended.semantic_ids, ids)


def test_extending_refuses_an_id_that_goes_on_where_another_ends() -> None:
    trie = Trie.from_semantic_ids(np.array([[0, -1], [1, 0]]))
    with pytest.raises(ValueError, match=r"\[0\] is a prefix of another"):
        trie.extend(np.array([[0, 2]]))


def test_extending_takes_wider_codes_and_a_loaded_trie(tmp_path: Path) -> None:
    ids = np.array([[0, 5], [1, 2]])
    new = np.array([[0, 100_000], [0, 5]])
    Trie.from_semantic_ids(ids).save(tmp_path / "trie")
    assert_same(Trie.load(tmp_path / "trie").extend(new), Trie.from_semantic_ids(np.concatenate([ids, new])))


@settings(deadline=None, max_examples=30)
@given(id_sets(), st.sampled_from([2**15, 2**20, 2**30]))
def test_codes_may_be_large(ids: np.ndarray, factor: int) -> None:
    large = np.where(ids > 0, ids.astype(np.int64) * (factor // 4) - 1, ids)
    trie = Trie.from_semantic_ids(large)
    np.testing.assert_array_equal(trie.semantic_ids, large)
    assert trie.items.tolist() == Trie.from_semantic_ids(ids).items.tolist()
    np.testing.assert_array_equal(trie.walk(large), Trie.from_semantic_ids(ids).walk(ids))


@settings(deadline=None, max_examples=20)
@given(ids=id_sets())
def test_what_is_saved_is_loaded_memory_mapped(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("saved") / "trie"
    trie = Trie.from_semantic_ids(ids)
    trie.save(folder)
    loaded = Trie.load(folder)
    assert_same(loaded, trie)
    assert all(isinstance(getattr(loaded, name), np.memmap) for name in ARRAYS)
    np.testing.assert_array_equal(loaded.semantic_ids, ids)
    np.testing.assert_array_equal(loaded.walk(ids), trie.walk(ids))


def test_writing_into_a_loaded_trie_leaves_the_files(tmp_path: Path) -> None:
    trie = Trie.from_semantic_ids(random_semantic_ids(20, (4, 4, 4)))
    trie.save(tmp_path / "trie")
    Trie.load(tmp_path / "trie").codes[:] = 3
    assert_same(Trie.load(tmp_path / "trie"), trie)


def test_saving_replaces_the_whole_folder(tmp_path: Path) -> None:
    old, new = (Trie.from_semantic_ids(random_semantic_ids(20, (4, 4, 4), seed)) for seed in (0, 1))
    old.save(tmp_path / "trie")
    (tmp_path / "trie" / "left_over").touch()
    new.save(str(tmp_path / "trie"))
    assert_same(Trie.load(tmp_path / "trie"), new)
    assert sorted(path.name for path in (tmp_path / "trie").iterdir()) == [
        "child_offsets.npy",
        "codes.npy",
        "item_starts.npy",
        "items.npy",
        "trie.json",
    ]


def test_a_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (Trie.from_semantic_ids(random_semantic_ids(20, (4, 4, 4), seed)) for seed in (0, 1))
    old.save(tmp_path / "trie")
    write, written = np.save, []

    def fail_at_the_third(path: Path, *arguments: object, **options: object) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError("the disk is full")
        write(path, *arguments, **options)

    monkeypatch.setattr(np, "save", fail_at_the_third)
    with pytest.raises(OSError, match="disk is full"):
        new.save(tmp_path / "trie")
    assert_same(Trie.load(tmp_path / "trie"), old)
    assert [path.name for path in tmp_path.iterdir()] == ["trie"]


def test_a_folder_without_a_trie_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trie\.json"):
        Trie.load(tmp_path)


def test_the_saved_info_is_plain_json(tmp_path: Path) -> None:
    trie = Trie.from_semantic_ids(random_semantic_ids(20, (4, 4, 4)))
    trie.save(tmp_path / "trie")
    assert json.loads((tmp_path / "trie" / "trie.json").read_text()) == {"level_starts": list(trie.level_starts)}


def test_an_item_takes_less_than_40_bytes() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (200_000, 4))
    trie = Trie.from_semantic_ids(ids)
    assert trie.nbytes == sum(getattr(trie, name).nbytes for name in ARRAYS)
    assert trie.nbytes < 40 * len(ids)
    np.testing.assert_array_equal(trie.semantic_ids, ids)


@pytest.mark.slow
def test_ten_million_items_build_in_a_minute_and_load_in_a_second(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (10_000_000, 4), dtype=np.int16)
    start = time.perf_counter()
    trie = Trie.from_semantic_ids(ids)
    assert time.perf_counter() - start < 60
    assert trie.nbytes <= 40 * len(ids)
    trie.save(tmp_path / "trie")
    start = time.perf_counter()
    loaded = Trie.load(tmp_path / "trie")
    nodes = loaded.walk(ids[:1000])
    assert time.perf_counter() - start < 1
    begins, ends = loaded.item_range(nodes)
    for item, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        assert item in loaded.items[begin:end]


def test_the_order_of_items_does_not_change_the_trie() -> None:
    ids = random_semantic_ids(200, (8, 8, 8))
    order = np.random.default_rng(1).permutation(len(ids))
    first, second = Trie.from_semantic_ids(ids), Trie.from_semantic_ids(ids[order])
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.child_offsets, second.child_offsets)
    np.testing.assert_array_equal(first.items, order[second.items])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.empty((0, 3)), "needs shape"),
        (np.arange(3), "needs shape"),
        ([[0, -2], [0, 0]], "holds the code -2"),
        ([[0, -1, 1], [0, 0, 0]], "goes on after -1"),
        ([[-1, -1], [0, 0]], "is empty"),
        ([[0, -1], [0, 1]], r"\[0\] is a prefix of another"),
        ([[0, 1, -1], [0, 1, 2], [0, 0, -1]], r"\[0, 1\] is a prefix of another"),
        ([[0, -1], [1, -1]], "ends before level 2"),
    ],
)
def test_what_cannot_be_indexed_is_refused(ids: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.from_semantic_ids(np.array(ids))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_narrow_integers_sort_as_wide_ones(dtype: type) -> None:
    ids = random_semantic_ids(300, (256, 256))
    ids[0] = 255
    np.testing.assert_array_equal(
        Trie.from_semantic_ids(ids.astype(dtype)).walk(ids), Trie.from_semantic_ids(ids).walk(ids)
    )


def test_codes_that_are_no_small_integers_are_refused() -> None:
    for ids in (np.array([[0.0, 1.0]]), np.array([[0, 2**31]])):
        with pytest.raises(ValueError, match="codes are integers below"):
            Trie.from_semantic_ids(ids)
