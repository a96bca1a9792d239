from pathlib import Path

import numpy as np
import pytest

from llmrec.baselines import Fusion, ItemKNN

SEQUENCES = [[0, 1, 2, 3], [3, 1, 4], [2, 4, 0]]


@pytest.fixture
def fusion() -> Fusion:
    return Fusion(ItemKNN(window=3, backward=0.25, query_length=2, decay=0.5).fit(SEQUENCES, 5), 0.4)


def test_what_is_saved_scores_as_before(fusion: Fusion, tmp_path: Path) -> None:
    fusion.save(tmp_path / "fusion")
    loaded = Fusion.load(tmp_path / "fusion")
    assert loaded.weight == 0.4
    histories = [[1, 2], [4], [0, 1, 2, 3]]
    assert (loaded.item_knn.scores(histories) != fusion.item_knn.scores(histories)).nnz == 0
    assert [path.suffix for path in sorted((tmp_path / "fusion").iterdir())] == [".json", ".safetensors"]


def test_in_another_catalogue_items_keep_their_links_and_new_ones_have_none(fusion: Fusion) -> None:
    before, after = ["a", "b", "c", "d", "e"], ["new", "e", "c", "a", "b"]
    moved = fusion.for_items(before, after)
    old = fusion.item_knn.scores([[1, 2]]).toarray()[0]
    new = moved.item_knn.scores([[4, 2]]).toarray()[0]
    np.testing.assert_array_equal(new, [0, old[4], old[2], old[0], old[1]])
    assert moved.item_knn.scores([[0]]).nnz == 0
