import numpy as np
import pytest

from llmrec.baselines import ItemKNN, Popularity
from llmrec.evaluation import Evaluator
from llmrec.schema import DataError


def test_asks_with_histories_in_the_catalogues_indices(small_dataset, item_ids):
    evaluator = Evaluator(small_dataset, item_ids[::-1], ks=(1, 3))
    assert evaluator.histories[0] == [9, 8, 7]
    assert evaluator.targets.tolist() == [[6], [4], [9], [2]]
    assert evaluator.user_ids == ["u0", "u1", "u2", "u3"]
    assert Evaluator(small_dataset, item_ids, split="valid", ks=(1,)).targets.tolist() == [[2], [4], [3], [6]]


def test_seen_items_are_taken_out_of_lists_and_the_rest_moves_up(small_dataset, item_ids):
    ranked = np.array([[0, 1, 3], [9, 8, 7], [0, 3, 1], [0, 1, 5]])
    excluding = Evaluator(small_dataset, item_ids, ks=(1, 3)).evaluate("model", ranked)
    assert excluding.per_user["hit_rate@1"].tolist() == [1, 0, 0, 0]  # 0 and 1 are gone, so 3 is first
    allowing = Evaluator(small_dataset, item_ids, exclude_seen=False, ks=(1, 3)).evaluate("model", ranked)
    assert allowing.per_user["hit_rate@1"].tolist() == [0, 0, 1, 0]
    assert allowing.per_user["hit_rate@3"].tolist() == [1, 0, 1, 0]
    assert excluding.metrics["coverage@3"] == 5 / 10  # 1, 3, 7, 8, 9


def test_breaking_the_rule_gains_nothing(small_dataset, item_ids):
    evaluator = Evaluator(small_dataset, item_ids, ks=(1, 2))
    generator = np.random.default_rng(0)
    ranked = np.array([generator.permutation(10) for _ in evaluator.user_ids])
    honest = np.full((4, 10), -1)
    for row, (items, seen) in enumerate(zip(ranked, evaluator.seen, strict=True)):
        kept = [item for item in items if item not in seen]
        honest[row, : len(kept)] = kept
    assert evaluator.evaluate("a", ranked).metrics == pytest.approx(evaluator.evaluate("b", honest).metrics)


def test_protocol_says_what_the_numbers_rest_on(small_dataset, item_ids):
    protocol = Evaluator(small_dataset, item_ids, refit=True, ks=(1,), seed=3).protocol
    expected = {"dataset": "small", "split": "test", "exclude_seen": True, "max_history": 50, "refit": True}
    expected |= {"num_items": 10, "num_users": 4, "seed": 3, "split_fingerprint": "0123456789abcdef"}
    assert expected.items() <= protocol.items()
    assert protocol["targets_seen_before"] == 1 / 4


def test_floors_follow_the_protocol_and_never_recommend_seen_items(small_dataset, item_ids):
    strict = Evaluator(small_dataset, item_ids, ks=(1, 3)).floors()
    assert [floor.name for floor in strict] == ["popularity", "item_knn"]
    refit = Evaluator(small_dataset, item_ids, ks=(1, 3), refit=True).floors()
    assert [floor.name for floor in refit] == ["popularity", "item_knn", "item_knn_refit"]
    assert refit[1].metrics == strict[1].metrics  # the reference number of a split does not move
    assert all(floor.metrics["valid_rate"] == 1.0 for floor in refit)
    # strict training never holds 3, so only the refit floor can find it for the first user
    assert strict[1].per_user["hit_rate@3"][0] == 0
    assert refit[2].per_user["hit_rate@3"][0] == 1


def test_refit_cannot_be_scored_on_its_own_training_targets(small_dataset, item_ids):
    with pytest.raises(ValueError, match="split='test'"):
        Evaluator(small_dataset, item_ids, split="valid", refit=True)


def test_buckets_split_targets_by_training_popularity(small_dataset, item_ids):
    evaluator = Evaluator(small_dataset, item_ids, exclude_seen=False, ks=(1,))  # the head: items 0 and 1
    result = evaluator.evaluate("model", np.array([[3], [0], [0], [0]]))
    assert result.buckets["head"] == {"hit_rate@1": 1, "recall@1": 1, "ndcg@1": 1, "mrr@1": 1, "num_users": 1}
    assert result.buckets["tail"]["hit_rate@1"] == pytest.approx(1 / 3)
    assert result.buckets["tail"]["num_users"] == 3


def test_a_sample_of_users_is_a_part_of_all_and_follows_its_seed(small_dataset, item_ids):
    sample = Evaluator(small_dataset, item_ids, ks=(1,), num_users=2, seed=1)
    again = Evaluator(small_dataset, item_ids, ks=(1,), num_users=2, seed=1)
    assert sample.user_ids == again.user_ids
    assert len(sample.histories) == len(sample.targets) == len(sample.seen) == sample.protocol["num_users"] == 2


def test_errors_name_the_item_and_the_shape(small_dataset, item_ids):
    with pytest.raises(DataError, match="'i7' in the test targets is not among the 7 items"):
        Evaluator(small_dataset, item_ids[:7])
    with pytest.raises(ValueError, match="one row for each of the 4 users"):
        Evaluator(small_dataset, item_ids, ks=(1,)).evaluate("model", np.zeros((3, 1), dtype=int))
    with pytest.raises(ValueError, match="'train'"):
        Evaluator(small_dataset, item_ids, split="train")


def test_groups_hold_their_own_targets_and_items(small_dataset, item_ids):
    """Train is 01, 01, 02, 105: items 3, 4 and 6 to 9 are cold. Targets are 3, 5, 0 and 7."""
    cold = Evaluator(small_dataset, item_ids, "test", exclude_seen=False, items="cold")
    assert cold.user_ids == ["u0", "u3"]
    assert cold.targets.tolist() == [[3], [7]]
    assert np.flatnonzero(cold.candidates).tolist() == [3, 4, 6, 7, 8, 9]
    assert cold.protocol["items"] == "cold"
    assert cold.protocol["num_items"] == 6
    warm = Evaluator(small_dataset, item_ids, "test", exclude_seen=False, items="warm")
    assert warm.user_ids == ["u1", "u2"]
    everything = np.tile(np.arange(20) % 10, (2, 1))
    assert cold.evaluate("all", everything).metrics["mrr@5"] == pytest.approx((1 / 1 + 1 / 4) / 2)
    assert warm.evaluate("all", everything).metrics["mrr@5"] == pytest.approx((1 / 4 + 1 / 1) / 2)


def test_floors_keep_to_the_group(small_dataset, item_ids):
    warm = Evaluator(small_dataset, item_ids, "test", items="warm")
    for floor in (Popularity(), ItemKNN()):
        ranked = floor.fit([[0, 1, 5, 3]], 10).recommend(warm.histories, 10, warm.seen, warm.candidates)
        assert warm.candidates[ranked[ranked >= 0]].all()
        assert (ranked >= 0).any()


def test_an_unknown_or_empty_group_is_refused(small_dataset, item_ids):
    with pytest.raises(ValueError, match="'all', 'warm' and 'cold'"):
        Evaluator(small_dataset, item_ids, items="new")
    small_dataset.sequences = [["i0", "i0", "i0"], ["i0", "i0", "i0", "i0"]]
    with pytest.raises(DataError, match=r"No user of the test split .* the cold items"):
        Evaluator(small_dataset, item_ids, items="cold")
