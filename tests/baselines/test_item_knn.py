import json
from collections import defaultdict
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.baselines import ItemKNN, Popularity
from llmrec.metrics import rank_metrics

NUM_ITEMS = 9


def brute_force_scores(sequences, history):
    """The description in words, with dicts and loops."""
    counts, links = defaultdict(int), defaultdict(float)
    for sequence in sequences:
        for place, item in enumerate(sequence):
            counts[item] += 1
            for later in range(place + 1, min(place + 10, len(sequence) - 1) + 1):
                links[item, sequence[later]] += 1 / (later - place)
                links[sequence[later], item] += 0.5 / (later - place)
    scores = defaultdict(float)
    for steps_back, item in enumerate(reversed(history[-10:])):
        for (source, target), weight in links.items():
            if source == item:
                scores[target] += 0.7**steps_back * weight / sqrt(counts[source] * counts[target])
    return dict(scores)


sequences_of_items = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=25)


@settings(deadline=None, max_examples=60)
@given(st.lists(sequences_of_items, min_size=1, max_size=6), st.lists(sequences_of_items, min_size=1, max_size=4))
def test_equals_brute_force_on_random_sequences(sequences, histories):
    ranked = ItemKNN().fit(sequences, NUM_ITEMS).recommend(histories, k=NUM_ITEMS, exclude=histories)
    for row, history in zip(ranked, histories, strict=True):
        scores = brute_force_scores(sequences, history)
        allowed = {item for item in scores if item not in history}
        returned = [item for item in row.tolist() if item >= 0]
        assert sorted(returned) == sorted(allowed)
        assert [scores[item] for item in returned] == pytest.approx(sorted((scores[i] for i in allowed), reverse=True))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=9, unique=True), min_size=2, max_size=6),
    st.booleans(),
)
def test_scores_within_a_sequence_are_those_of_the_other_sequences(sequences, exclude_seen):
    asked, others = sequences[0], sequences[1:]
    everything = ItemKNN().fit(sequences, NUM_ITEMS)
    scores = everything.scores_within([asked[:1], asked], exclude_seen).toarray()[len(asked[:1]) :]
    counts = np.bincount([item for sequence in sequences for item in sequence], minlength=NUM_ITEMS)
    of_others = np.bincount([item for sequence in others for item in sequence], minlength=NUM_ITEMS)
    for place, row in enumerate(scores):
        for target in range(NUM_ITEMS):
            expected = sum(
                brute_force_scores(others, [source]).get(target, 0)
                * 0.7**steps_back
                * sqrt(of_others[source] * of_others[target] / (counts[source] * counts[target] or 1))
                for steps_back, source in enumerate(reversed(asked[:place]))
            )
            is_out = exclude_seen and target in asked[:place]
            assert row[target] == pytest.approx(0 if is_out else expected, abs=1e-8)


def test_prefers_what_follows_and_breaks_ties_by_index():
    model = ItemKNN().fit([[0, 2, 3], [5, 2, 1]], num_items=6)
    # 1 and 3 follow item 2, 0 and 5 precede it
    assert model.recommend([[2]], k=6).tolist() == [[1, 3, 0, 5, -1, -1]]


def test_a_history_without_links_gets_an_empty_list_and_users_do_not_leak_into_each_other():
    model = ItemKNN().fit([[0, 1], [2, 3]], num_items=5)
    assert model.recommend([[4], [], [1]], k=2).tolist() == [[-1, -1], [-1, -1], [0, -1]]


@pytest.mark.slow
def test_reproduces_the_measured_floors_on_amazon_beauty(llmrec_data):
    lines = (llmrec_data / "amazon2014_beauty" / "sequences.jsonl").read_text().splitlines()
    sequences = [json.loads(line)["items"] for line in lines]
    train = [sequence[:-2] for sequence in sequences]
    histories = [sequence[:-1] for sequence in sequences]
    targets = np.array([[sequence[-1]] for sequence in sequences])
    expected = {
        Popularity: {"hit_rate@5": 0.0075, "hit_rate@10": 0.0115, "ndcg@5": 0.0041, "ndcg@10": 0.0055},
        ItemKNN: {"hit_rate@5": 0.0563, "hit_rate@10": 0.0779, "ndcg@5": 0.0419, "ndcg@10": 0.0489},
    }
    for recommender, metrics in expected.items():
        ranked = recommender().fit(train, 12101).recommend(histories, k=10, exclude=histories)
        values = rank_metrics(ranked, targets, ks=(5, 10))
        for metric, value in metrics.items():
            assert values[metric].mean() == pytest.approx(value, abs=0.0005), (recommender, metric)
