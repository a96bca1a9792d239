from dataclasses import replace

import numpy as np
import pytest

from llmrec.baselines.sasrec import SASRec, SASRecConfig

NUM_ITEMS = 20
TINY = SASRecConfig(dim=16, num_layers=1, num_heads=2, max_history=8, num_epochs=40, batch_size=16, learning_rate=5e-3)


def ring(num_users=60, seed=0):
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(NUM_ITEMS, size=num_users), rng.integers(3, 20, size=num_users)
    return [
        [int(start + step) % NUM_ITEMS for step in range(length)] for start, length in zip(starts, lengths, strict=True)
    ]


@pytest.fixture(scope="module")
def trained():
    return SASRec(TINY).fit(ring(), NUM_ITEMS, progress=False)


def test_it_learns_what_follows(trained):
    histories = [[start, (start + 1) % NUM_ITEMS, (start + 2) % NUM_ITEMS] for start in range(NUM_ITEMS)]
    ranked = trained.recommend(histories, k=3, exclude=histories)
    assert (ranked[:, 0] == [(start + 3) % NUM_ITEMS for start in range(NUM_ITEMS)]).mean() > 0.9


def test_only_the_latest_items_count(trained):
    long = [0, 5, 9, *range(1, 9)]
    assert trained.recommend([long], k=5).tolist() == trained.recommend([long[-8:]], k=5).tolist()


def test_neighbours_in_a_batch_change_nothing(trained):
    histories = [[3, 4], [7, 8, 9, 10, 11]]
    together = trained.recommend(histories, k=5)
    for history, row in zip(histories, together, strict=True):
        assert trained.recommend([history], k=5)[0].tolist() == row.tolist()


def test_excluded_items_and_those_that_are_no_candidates_are_not_recommended(trained):
    candidates = np.zeros(NUM_ITEMS, dtype=bool)
    candidates[[2, 3, 4]] = True
    assert set(trained.recommend([[1]], k=5, exclude=[[3]], candidates=candidates)[0].tolist()) == {2, 4, -1}


def test_the_same_seed_gives_the_same_embeddings(trained):
    again = SASRec(TINY).fit(ring(), NUM_ITEMS, progress=False)
    assert np.array_equal(again.item_embeddings, trained.item_embeddings)


def test_it_is_saved_and_loaded(trained, tmp_path):
    trained.save(tmp_path)
    loaded = SASRec.load(tmp_path, TINY, NUM_ITEMS)
    assert loaded.recommend([[1, 2]], k=5).tolist() == trained.recommend([[1, 2]], k=5).tolist()


def test_every_item_but_the_first_is_predicted_once_an_epoch():
    sequences = [np.arange(30), np.arange(100, 104)]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        (batch,) = SASRec(TINY)._batches(sequences, generator)
        predicted = sorted(item for row in batch for item in row[1:].tolist() if item >= 0)
        assert predicted == [*range(1, 30), 101, 102, 103]


def test_items_that_nobody_has_stay_where_they_were_drawn():
    sequences = [[item for item in sequence if item < NUM_ITEMS - 2] for sequence in ring()]
    one, two = (
        SASRec(replace(TINY, num_epochs=epochs)).fit(sequences, NUM_ITEMS, progress=False).item_embeddings
        for epochs in (1, 2)
    )
    assert np.array_equal(one[-2:], two[-2:])
    assert not np.isclose(one[:-2], two[:-2]).all(axis=1).any()


def test_sequences_of_one_item_are_refused():
    with pytest.raises(ValueError, match="nothing for SASRec to predict"):
        SASRec(TINY).fit([[1], []], NUM_ITEMS)
