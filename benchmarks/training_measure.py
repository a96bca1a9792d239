"""The instruments of benchmarks/training.py: what a trainer reads and learns from, how fast, in what memory."""

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.decoding_measure import PeakMemory
from benchmarks.training_contenders import trained_parameters
from llmrec.training.examples import IGNORED_LABEL

#: Steps before speed is measured: caches and threads are cold in them.
WARM_UP_STEPS = 3
#: Seconds of training before the first validation, and how much later each further one is: the same rule for all.
FIRST_VALIDATION, VALIDATION_GROWTH = 5.0, 1.25


def versions() -> dict[str, str | None]:
    """Of Python and the packages that decide speed; None where one is not installed as a package."""
    packages = ("llmrec", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "deepspeed")
    packages += ("bitsandbytes", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass
class Counts:
    """Of one batch, or of several."""

    examples: int = 0
    tokens: int = 0  # read, without padding
    positions: int = 0  # computed, padding included
    label_tokens: int = 0  # under the loss
    squares: int = 0  # squared lengths of examples, for the work of attention

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(mine + yours for mine, yours in zip(vars(self).values(), vars(other).values(), strict=True)))


def count_batch(rows: Sequence[dict[str, Any]], batch: dict[str, torch.Tensor]) -> Counts:
    """Rows of ``input_ids``, ``labels`` and perhaps ``seq_lengths``, and the batch they were collated into."""
    lengths = [length for row in rows for length in row.get("seq_lengths", [len(row["input_ids"])])]
    return Counts(
        examples=len(lengths),
        tokens=sum(lengths),
        positions=batch["input_ids"].numel(),
        label_tokens=int((batch["labels"] != IGNORED_LABEL).sum()),
        squares=sum(length**2 for length in lengths),
    )


class CountingCollator:
    """A trainer's collator that keeps the counts of each batch in order."""

    def __init__(self, collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collator = collator
        self.batches: list[Counts] = []

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        self.batches.append(count_batch(rows, batch))
        return batch


@dataclass
class Progress(TrainerCallback):
    """Seconds of training without those of validation, until a target or a limit is reached.

    Args:
        synchronize: waits for the device.
        limit_s: seconds of training before it stops.
        validate: NDCG@10 of the model; None never validates.
        target: NDCG@10 at which training stops.
        before_validation: called once, ahead of the first validation.

    Attributes:
        step_seconds: training seconds at the end of each step.
        validations: step, training seconds, seconds with validation, and ndcg@10 of each.
    """

    synchronize: Callable[[], None]
    limit_s: float
    validate: Callable[[Any], float] | None = None
    target: float = float("inf")
    before_validation: Callable[[], None] = lambda: None
    step_seconds: list[float] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    _start: float = 0.0
    _validating: float = 0.0
    _next: float = FIRST_VALIDATION

    @property
    def reached(self) -> bool:
        return bool(self.validations) and self.validations[-1]["ndcg@10"] >= self.target

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        self.synchronize()
        self._start = time.perf_counter()

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        self.synchronize()
        seconds = time.perf_counter() - self._start - self._validating
        self.step_seconds.append(seconds)
        ends = seconds >= self.limit_s or state.global_step >= state.max_steps
        if self.validate is not None and (ends or seconds >= self._next):
            if not self.validations:
                self.before_validation()
            start = time.perf_counter()
            ndcg = self.validate(model)
            self._validating += time.perf_counter() - start
            self._next = seconds * VALIDATION_GROWTH
            place = {
                "step": state.global_step,
                "seconds": seconds,
                "seconds_with_validation": seconds + self._validating,
            }
            self.validations.append({**place, "ndcg@10": ndcg})
            print(f"  step {state.global_step}, {seconds:.0f} s: ndcg@10 {ndcg:.4f}", file=sys.stderr, flush=True)
        control.should_training_stop = control.should_training_stop or ends or self.reached


def measure(
    trainer: Trainer, progress: Progress, targets: Callable[[int, int], float], memory: PeakMemory
) -> dict[str, Any]:
    """Train, and say how it went.

    Args:
        trainer: of a contender.
        progress: not used before.
        targets: items asked for, from tokens under the loss and examples.
        memory: started before the model was built.
    """
    peaks: list[int] = []
    progress.before_validation = lambda: peaks.append(memory.peak_bytes())
    trainer.data_collator = collator = CountingCollator(trainer.data_collator)
    trainer.add_callback(progress)
    trainer.train()
    peak = peaks[0] if peaks else memory.peak_bytes()
    steps = len(progress.step_seconds)
    counted = min(WARM_UP_STEPS, steps - 1)
    read = sum(collator.batches[:steps], Counts())
    timed = sum(collator.batches[counted:steps], Counts())
    seconds = progress.step_seconds[-1] - (progress.step_seconds[counted - 1] if counted else 0.0)
    learned = targets(timed.label_tokens, timed.examples)
    return {
        "steps": steps,
        "seconds": progress.step_seconds[-1],
        "tokens_per_s": timed.tokens / seconds,
        "examples_per_s": timed.examples / seconds,
        "targets_per_s": learned / seconds,
        "tokens_per_target": timed.tokens / learned,
        "padding": 1 - timed.tokens / timed.positions,
        "timed": {**vars(timed), "seconds": seconds},
        "examples": read.examples,
        "targets": targets(read.label_tokens, read.examples),
        "peak_bytes": peak,
        "peak_how": memory.how,
        "trained_parameters": trained_parameters(trainer.model),
        "validations": progress.validations,
        "reached": progress.reached,
    }
