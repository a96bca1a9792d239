import numpy as np

from llmrec.baselines import Popularity


def test_ranks_by_count_then_index_and_pads_what_exclusion_leaves_short():
    model = Popularity().fit([[2, 2, 1], [0, 2, 1]], num_items=5)
    assert model.counts.tolist() == [1, 2, 3, 0, 0]
    ranked = model.recommend([[2], [0], []], k=4, exclude=[[2, 1], {0, 1, 2}, []])
    assert ranked.tolist() == [[0, 3, 4, -1], [3, 4, -1, -1], [2, 1, 0, 3]]


def test_without_exclusion_everyone_gets_the_same_list():
    ranked = Popularity().fit([[1, 1, 0]], num_items=3).recommend([[1], [0]], k=3)
    assert np.array_equal(ranked, [[1, 0, 2], [1, 0, 2]])
