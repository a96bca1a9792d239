"""Whether item-kNN teaches, and what is refused."""

import pytest

from llmrec.recipe.distillation import SHARE, share_of_teacher


@pytest.mark.parametrize(
    ("share", "is_small", "whole_histories", "expected"),
    [
        (None, True, True, SHARE),
        (None, False, True, 0),
        (None, True, False, 0),
        (0.3, False, True, 0.3),
        (0, True, False, 0),
    ],
)
def test_it_teaches_small_models_of_whole_histories_unless_asked_otherwise(
    share: float | None, is_small: bool, whole_histories: bool, expected: float
) -> None:
    assert share_of_teacher(share, is_small, whole_histories) == expected


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="up to, but not, 1"):
        share_of_teacher(share, True, True)


def test_a_teacher_without_whole_histories_is_refused() -> None:
    with pytest.raises(ValueError, match="history_loss all"):
        share_of_teacher(0.5, True, False)
