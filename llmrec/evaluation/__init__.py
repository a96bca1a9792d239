"""One protocol for every recommender, and the ways to show what came out of it."""

from llmrec.evaluation.evaluator import EvaluationResult, Evaluator
from llmrec.evaluation.report import (
    format_table,
    plot_comparison,
    print_recommendations,
    print_table,
    write_metrics_json,
)

__all__ = [
    "EvaluationResult",
    "Evaluator",
    "format_table",
    "plot_comparison",
    "print_recommendations",
    "print_table",
    "write_metrics_json",
]
