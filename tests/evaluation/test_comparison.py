"""Before and after: differences are paired by user."""

import numpy as np
import pytest

from llmrec.evaluation.comparison import before_after
from llmrec.evaluation.evaluator import EvaluationResult


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
