"""A model before and after a further stage of training, on the same users."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from transformers import PreTrainedModel

from llmrec.evaluation.evaluator import EvaluationResult, Evaluator
from llmrec.metrics import paired_bootstrap

if TYPE_CHECKING:  # as in the evaluator
    from llmrec.dataset import RecDataset

#: Cut-offs; those beyond the search width are left out.
COMPARED_KS = (10, 20, 50)


class ComparedProtocol(Protocol):
    """What decides the lists that are compared: a recipe's options have all of it."""

    num_beams: int
    exclude_seen: bool
    refit: bool


def compare_models(
    rank: Callable[[PreTrainedModel, Evaluator], np.ndarray],
    dataset: "RecDataset",
    item_ids: Sequence[str],
    before: PreTrainedModel,
    after: PreTrainedModel,
    protocol: ComparedProtocol,
    seed: int,
) -> tuple[dict[str, dict[str, Any]], str]:
    """Rank the validation users (unless ``refit`` trained on them) and the test users with both models.

    Args:
        rank: a model's lists for an evaluator's users, int64 of shape (num_users, largest k).
        dataset: whose users are ranked, all of them.
        item_ids: of the catalogue.
        before, after: the models.
        protocol: ``refit`` leaves out the validation users; cut-offs beyond ``num_beams`` are left out.
        seed: of the bootstrap.

    Returns:
        What ``before_after`` returns.
    """
    ks = [k for k in COMPARED_KS if k <= protocol.num_beams]
    splits: tuple[Literal["valid", "test"], ...] = ("test",) if protocol.refit else ("valid", "test")
    pairs: dict[str, tuple[EvaluationResult, EvaluationResult]] = {}
    for split in splits:
        evaluator = Evaluator(dataset, item_ids, split, protocol.exclude_seen, ks, protocol.refit, seed=seed)
        pairs[split] = (
            evaluator.evaluate("before", rank(before, evaluator)),
            evaluator.evaluate("after", rank(after, evaluator)),
        )
    return before_after(pairs, ["ndcg@10", *(f"hit_rate@{k}" for k in ks)], seed)


def before_after(
    pairs: dict[str, tuple[EvaluationResult, EvaluationResult]], metrics: list[str], seed: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """What changed, with paired bootstrap intervals over users.

    Args:
        pairs: results of the same users, before and after, by split.
        metrics: names such as ``ndcg@10``.
        seed: of the bootstrap.

    Returns:
        ``{split: {metric: {"before", "after", "difference", "interval"}}}``, and the same as a table.
    """
    numbers: dict[str, dict[str, Any]] = {}
    lines = [f"{'':20}  {'before':>7}  {'after':>7}  {'difference':>10}  {'95 % interval':>18}"]
    for split, (before, after) in pairs.items():
        numbers[split] = {}
        for metric in metrics:
            paired = paired_bootstrap(after.per_user[metric], before.per_user[metric], seed)
            numbers[split][metric] = {
                "before": before.metrics[metric],
                "after": after.metrics[metric],
                "difference": paired.difference,
                "interval": [paired.low, paired.high],
            }
            lines.append(
                f"{split + ' ' + metric:20}  {before.metrics[metric]:7.4f}  {after.metrics[metric]:7.4f}  "
                f"{paired.difference:+10.4f}  {f'{paired.low:+.4f} to {paired.high:+.4f}':>18}"
            )
    return numbers, "\n".join(lines)
