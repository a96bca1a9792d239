"""Before and after: differences are paired by user."""

from types import SimpleNamespace

import numpy as np
import pytest

from llmrec.evaluation.comparison import before_after, compare_models
from llmrec.evaluation.evaluator import EvaluationResult, Evaluator


def _result(name: str, values: np.ndarray) -> EvaluationResult:
    return EvaluationResult(name, {"ndcg@10": float(values.mean())}, {}, {"ndcg@10": values}, {})


def test_a_change_that_is_the_same_for_every_user_has_no_width() -> None:
    before = np.random.default_rng(0).random(50)
    pairs = {"test": (_result("before", before), _result("after", before + 0.1))}
    numbers, table = before_after(pairs, ["ndcg@10"], seed=0)
    change = numbers["test"]["ndcg@10"]
    assert change["after"] - change["before"] == pytest.approx(0.1)
    assert change["difference"] == pytest.approx(0.1)
    assert change["interval"] == pytest.approx([0.1, 0.1])
    assert "test ndcg@10" in table
    assert "+0.1000 to +0.1000" in table


@pytest.mark.parametrize("refit", [False, True])
def test_models_are_compared_where_the_protocol_allows(small_dataset, item_ids, refit) -> None:
    asked = []

    def rank(model: str, evaluator: Evaluator) -> np.ndarray:
        asked.append((model, evaluator.protocol["split"], max(evaluator.ks)))
        lists = np.tile(np.arange(max(evaluator.ks)), (len(evaluator.histories), 1))
        if model == "after":
            lists[:, 0] = evaluator.targets[:, 0]
        return lists

    protocol = SimpleNamespace(num_beams=20, exclude_seen=False, refit=refit)
    numbers, _ = compare_models(rank, small_dataset, item_ids, "before", "after", protocol, seed=0)
    splits = ["test"] if refit else ["valid", "test"]
    assert asked == [(model, split, 20) for split in splits for model in ("before", "after")]
    assert list(numbers) == splits
    for changes in numbers.values():
        assert list(changes) == ["ndcg@10", "hit_rate@10", "hit_rate@20"]
        assert changes["ndcg@10"]["after"] == 1.0
