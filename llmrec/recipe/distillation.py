"""Whether item-kNN has a share in the targets of a recipe's training, and its teacher."""

from dataclasses import dataclass, field

from llmrec.dataset import RecDataset
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.distillation import ItemKNNTeacher

#: Chosen on validation users (docs/benchmarks.md).
SHARE = 0.5


@dataclass
class DistillationArguments:
    """Item-kNN as a teacher."""

    distillation: float | None = field(
        default=None,
        metadata={
            "help": "Share of the targets that item-kNN names; 0: the histories' own items alone; unset: "
            f"{SHARE} for a small model with history_loss all, else 0."
        },
    )


def share_of_teacher(share: float | None, is_small: bool, whole_histories: bool) -> float:
    """What was asked for, or the default.

    Args:
        share: as given, None where it was not.
        is_small: whether the model is built from a config, so that the logits of a whole batch are small.
        whole_histories: whether they are what is learnt.

    Raises:
        ValueError: if the share is out of range, or whole histories are not learnt.
    """
    if share is None:
        return SHARE if is_small and whole_histories else 0
    if not 0 <= share < 1:
        raise ValueError(f"distillation is {share}; allowed is 0 (the histories' own items) up to, but not, 1.")
    if share and not whole_histories:
        raise ValueError(
            "distillation needs whole histories as targets: give --stage sft --history_loss all, or --distillation 0."
        )
    return share


def open_teacher(
    share: float, dataset: RecDataset, renderer: SegmentRenderer, refit: bool, exclude_seen: bool
) -> ItemKNNTeacher | None:
    """Item-kNN of the training interactions; None for a ``share`` of 0."""
    if not share:
        return None
    sequences = [renderer.catalog.rows_of(sequence) for sequence in dataset.train_sequences(refit=refit)]
    item_tokens = renderer.vocabulary.item_token_ids(renderer.catalog.semantic_ids)
    return ItemKNNTeacher(sequences, item_tokens, share, exclude_seen)
