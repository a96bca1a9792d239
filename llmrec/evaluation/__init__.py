"""One protocol for every recommender, and the ways to show what came out of it."""

from llmrec.evaluation.evaluator import EvaluationResult, Evaluator, sample_users
from llmrec.evaluation.report import (
    format_table,
    plot_comparison,
    print_recommendations,
    print_table,
    write_metrics_json,
    write_per_user,
)
from llmrec.evaluation.search import SearchEvaluator, format_search

__all__ = [
    "EvaluationResult",
    "Evaluator",
    "SearchEvaluator",
    "format_search",
    "format_table",
    "plot_comparison",
    "print_recommendations",
    "print_table",
    "sample_users",
    "write_metrics_json",
    "write_per_user",
]
