"""How a recipe's model is validated, tested and reported: shared by all processes of a launch, told by one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines import fused_name
from llmrec.baselines.sasrec import SASRec
from llmrec.dataset import RecDataset
from llmrec.decoding.beam_search import DEFAULT_SCORES, ScoreKind
from llmrec.evaluation import (
    EvaluationResult,
    Evaluator,
    format_table,
    plot_comparison,
    print_recommendations,
    write_metrics_json,
    write_per_user,
)
from llmrec.evaluation.comparison import COMPARED_KS
from llmrec.evaluation.recommender import Ranks
from llmrec.training.processes import gather_rows, share_rows


@dataclass
class EvaluationArguments:
    """The protocol."""

    max_history: int = field(default=50, metadata={"help": "Latest items of a history that the model sees."})
    refit: bool = field(
        default=False,
        metadata={"help": "Train with the validation items too, for a number of passes chosen beforehand."},
    )
    exclude_seen: bool = field(default=True, metadata={"help": "Never recommend what the user had before."})
    valid_users: int | None = field(default=2000, metadata={"help": "Users ranked at each validation; all if unset."})
    early_stopping_patience: int | None = field(
        default=3, metadata={"help": "Stop after so many validations without a better ndcg@10."}
    )


@dataclass
class SearchArguments(EvaluationArguments):
    """The search behind every list of semantic IDs."""

    num_beams: int = field(default=50, metadata={"help": "Search width."})
    beam_scores: ScoreKind = field(
        default=DEFAULT_SCORES,
        metadata={"help": "vocabulary: as generate scores them. catalog: renormalised over valid continuations."},
    )


def rank_users(recommender: Ranks, model: Any, evaluator: Evaluator, progress: bool = False) -> np.ndarray:
    """The lists of all of the evaluator's users, on every process; each of them ranks its share."""
    k = max(evaluator.ks)

    def rank(rows: Sequence[int]) -> np.ndarray:
        histories, seen = ([lists[row] for row in rows] for lists in (evaluator.histories, evaluator.seen))
        user_ids = [evaluator.user_ids[row] for row in rows]
        return recommender.recommend(model, histories, k, seen, evaluator.candidates, progress, user_ids)

    return rank_in_shares(recommender, evaluator, rank)


def rank_in_shares(recommender: Ranks, evaluator: Evaluator, rank: Callable[[Sequence[int]], np.ndarray]) -> np.ndarray:
    """What ``rank`` says of all of the evaluator's users, on every process; each of them asks for its share.

    Args:
        recommender: whose batches are shared out.
        evaluator: of the users.
        rank: numbers of some of the evaluator's users to integers of shape (num_users, width).
    """
    lengths = [min(len(history), recommender.max_history) for history in evaluator.histories]
    rows = share_rows(lengths, recommender.batch_size)
    return gather_rows(rows, rank(rows.tolist()), len(lengths))


def ranking_evaluation(
    args: SearchArguments, dataset: RecDataset, recommender: Ranks, seed: int
) -> Callable[[Any], dict[str, float]]:
    """Validation by ranking the full catalogue: a model in, ndcg@10 and hit rates out."""
    ks = [k for k in COMPARED_KS if k <= args.num_beams]
    evaluator = Evaluator(
        dataset,
        recommender.item_ids,
        "valid",
        exclude_seen=args.exclude_seen,
        ks=ks,
        num_users=args.valid_users,
        seed=seed,
    )

    def evaluate(model: Any) -> dict[str, float]:
        result = evaluator.evaluate("validation", rank_users(recommender, model, evaluator))
        return {name: result.metrics[name] for name in ("ndcg@10", *(f"hit_rate@{k}" for k in ks))}

    return evaluate


#: A group of items, its evaluator, and the lists of its users.
GroupLists = Mapping[str, tuple[Evaluator, np.ndarray]]


def report(
    method: str,
    folder: Path,
    evaluator: Evaluator,
    titles: Sequence[str],
    ranked: np.ndarray,
    options: dict[str, Any],
    seconds: dict[str, float],
    sasrec: SASRec | None = None,
    groups: GroupLists | None = None,
    fused: np.ndarray | None = None,
) -> tuple[dict[str, Any], str]:
    """Print the table and a few of the test users' lists, and write metrics.json, per_user.parquet and the picture.

    Args:
        method: named in the table beside the floors.
        folder: of the run.
        evaluator: of the test users.
        titles: of the catalogue's items.
        ranked: lists of the test users.
        options: what else defines the numbers, for the protocol.
        seconds: of each stage.
        sasrec: trained already, another floor.
        groups: lists of warm and cold items, to be reported beside those of all.
        fused: lists of the test users where item-kNN is mixed in; they are the ones shown.

    Returns:
        What is in metrics.json, and the table.
    """
    results = _results(method, evaluator, ranked, sasrec)
    if fused is not None:
        results.insert(0, evaluator.evaluate(fused_name(method), fused))
    protocol = {**evaluator.protocol, **options}
    table = format_table(results, protocol)
    of_groups = {name: _results(method, *lists, sasrec) for name, lists in (groups or {}).items()}
    for name, group_results in of_groups.items():
        group_protocol = {**groups[name][0].protocol, **options}  # type: ignore[index]
        table += f"\n\n{format_table(group_results, group_protocol)}"
    print(f"\n{table}")
    print_recommendations(titles, evaluator.histories, ranked if fused is None else fused, evaluator.targets)
    plot_comparison(results, folder / "comparison.png")
    fingerprint = evaluator.protocol["split_fingerprint"]
    write_per_user(folder / "per_user.parquet", evaluator.user_ids, results)
    write_metrics_json(folder / "metrics.json", protocol, fingerprint, results, seconds, of_groups)
    return json.loads((folder / "metrics.json").read_text()), table


def _results(method: str, evaluator: Evaluator, ranked: np.ndarray, sasrec: SASRec | None) -> list[EvaluationResult]:
    results = [evaluator.evaluate(method, ranked), *evaluator.floors()]
    if sasrec is not None:
        lists = sasrec.recommend(evaluator.histories, max(evaluator.ks), evaluator.seen, evaluator.candidates)
        results.append(evaluator.evaluate("sasrec", lists))
    return results
