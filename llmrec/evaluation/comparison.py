"""A model before and after a further stage of training, on the same users."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import PreTrainedModel

from llmrec.atomic import write_json
from llmrec.evaluation.evaluator import EvaluationResult, Evaluator
from llmrec.evaluation.recommender import Recommender
from llmrec.metrics import paired_bootstrap

if TYPE_CHECKING:  # as in the evaluator
    from llmrec.dataset import RecDataset

#: Cut-offs; those beyond the search width are left out.
COMPARED_KS = (10, 20, 50)


def compare_models(
    dataset: "RecDataset",
    recommender: Recommender,
    before: PreTrainedModel,
    after: PreTrainedModel,
    exclude_seen: bool,
    refit: bool,
    seed: int,
    path: Path,
) -> str:
    """Rank the validation users (unless ``refit`` trained on them) and the test users with both models.

    Args:
        dataset: whose users are ranked, all of them.
        recommender: words the prompts and searches.
        before, after: the models.
        exclude_seen, refit: as for ``Evaluator``.
        seed: of the bootstrap.
        path: gets the numbers as JSON.

    Returns:
        The numbers as a table, which is printed too.
    """
    ks = [k for k in COMPARED_KS if k <= recommender.num_beams]
    pairs: dict[str, tuple[EvaluationResult, EvaluationResult]] = {}
    splits: tuple[Literal["valid", "test"], ...] = ("test",) if refit else ("valid", "test")
    for split in splits:
        evaluator = Evaluator(dataset, recommender.renderer.catalog.item_ids, split, exclude_seen, ks, refit, seed=seed)
        results = []
        for name, model in (("before", before), ("after", after)):
            ranked = recommender.recommend(model, evaluator.histories, max(ks), evaluator.seen, progress=False)
            results.append(evaluator.evaluate(name, ranked))
        pairs[split] = (results[0], results[1])
    numbers, table = before_after(pairs, ["ndcg@10", *(f"hit_rate@{k}" for k in ks)], seed)
    write_json(path, numbers)
    print(f"\n{table}")
    return table


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
