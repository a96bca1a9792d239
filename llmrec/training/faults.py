"""What stops a training run before its end, what is left on disk then, and what the user is told to do."""

import errno
import logging
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from llmrec.training.checkpoints import (
    check_free_space,
    checkpoint_size,
    complete_checkpoints,
    estimated_checkpoint_size,
    is_complete,
    mark_complete,
    readable_size,
    remove_older,
)

logger = logging.getLogger(__name__)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class FaultTolerance:
    """Mixed into a transformers Trainer: complete checkpoints, exact resuming, and a stop at a loss that is no number.

    Attributes:
        inputs: fingerprints of what the run is trained on, noted in every checkpoint.
    """

    args: Any
    state: Any
    control: Any
    model: Any
    accelerator: Any
    inputs: Mapping[str, str] | None = None
    _stopped_early = False

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass.

        Raises:
            TrainingError: if the loss is not a finite number.
        """
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        # the one wait for the device per step that transformers' logging_nan_inf_filter costs when it is on
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite(f"The training loss of step {self.state.global_step + 1} is {loss}"))
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if (self.control.should_evaluate or self.control.should_save) and not _all_finite(self.model):
            raise TrainingError(self._not_finite(f"The weights after step {self.state.global_step} are not finite"))
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]

    def _not_finite(self, what: str) -> str:
        rate = self._get_learning_rate()  # type: ignore[attr-defined]
        message = (
            f"{what} (learning rate {rate:.3g}). Nothing was saved from it, and the same command would end here again. "
            "Name another --output_dir, and lower --learning_rate or --max_grad_norm, or give --bf16 True instead of "
            "--fp16 True."
        )
        complete = complete_checkpoints(Path(self.args.output_dir))
        if not complete:
            return message
        return (
            f"{message} The last complete checkpoint is {complete[-1]}: named in --resume_from_checkpoint, training "
            "goes on from it, with its learning rate; in --model_name_or_path, it starts anew from those weights (not "
            "from an adapter), with a new learning rate."
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and checkpoint.exists():
            # of a run that was resumed from an earlier checkpoint: must not look complete while it is written over
            shutil.rmtree(checkpoint)
        self.accelerator.wait_for_everyone()
        try:
            with self._no_rotation():
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(checkpoint, self.inputs or {})
        except Exception as error:
            if not is_disk_full(error):
                raise
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise TrainingError(disk_full_message(folder, estimated_checkpoint_size(self.model, self.args))) from error
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            remove_older(folder, self.state.global_step, self.args.save_total_limit, best)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        with self._no_rotation():  # a run that is killed while it is tested goes on from its last checkpoint
            return super()._finalize_training(*args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def _no_rotation(self) -> Iterator[None]:
        """transformers removes old checkpoints before the other processes have finished writing the new one."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        steps = max_steps, num_update_steps_per_epoch, num_train_epochs
        progress = super()._init_training_state(*steps, resume_from_checkpoint, trial)  # type: ignore[misc]
        if resume_from_checkpoint is not None and self.state.best_model_checkpoint is None:
            self.state.best_model_checkpoint = _best_beside(Path(resume_from_checkpoint))
        if self.args.should_save:
            check_free_space(Path(self.args.output_dir), self.model, self.args, self._num_saves())
            if resume_from_checkpoint is not None:
                _warn_of_other_processes(Path(resume_from_checkpoint), self.args.world_size)
        return progress

    def _num_saves(self) -> int:
        if self.args.save_strategy == SaveStrategy.STEPS:
            return -(-self.state.max_steps // self.state.save_steps)
        return 0 if self.args.save_strategy == SaveStrategy.NO else self.state.num_train_epochs

    def _load_callback_state(self) -> None:
        super()._load_callback_state()  # type: ignore[misc]
        stopped = self.state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        self._stopped_early = stopped and self.state.global_step < self.state.max_steps
        self.args.eval_on_start = False  # done, and early stopping has counted it

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._stopped_early:
            logger.warning(
                "The run of this checkpoint had stopped early at step %d, so nothing is left to train. To train on, "
                "start a new run from its weights with --model_name_or_path.",
                self.state.global_step,
            )
        if self._stopped_early or self.state.global_step >= self.state.max_steps:
            # a resumed run that was over: transformers forgets that and would train until its next look at control
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def explain_failures(folder: Path, *other_folders: Path) -> Iterator[None]:
    """Turn the known causes that end a run into one clear message; other errors pass as they are.

    Args:
        folder: of the run, where its checkpoints lie.
        other_folders: where it writes too: the dataset, caches.

    Raises:
        TrainingError: for a full disk, or a process of the launch that is gone.
    """
    with _message_on_sigterm(folder):
        try:
            yield
        except TrainingError:
            raise
        except Exception as error:
            if is_disk_full(error):
                fullest = min((folder, *other_folders), key=lambda path: shutil.disk_usage(_existing(path)).free)
                raise TrainingError(disk_full_message(fullest, None)) from error
            if _is_lost_process(error):
                raise TrainingError(_lost_process_message(folder)) from error
            raise


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` is how Python, Arrow, NumPy, safetensors or torch say that the disk, or a quota, is full."""
    if isinstance(error, OSError):
        # NumPy counts what it could write, and gives no number
        return error.errno in _DISK_FULL or re.fullmatch(r"\d+ requested and \d+ written", str(error)) is not None
    if isinstance(error, SafetensorError):
        return any(f"(os error {number})" in str(error) for number in _DISK_FULL)
    # torch.save does not say why it failed: its file is shorter than what was written to it
    writer = ("PytorchStreamWriter failed writing", "inline_container.cc", "iostream error")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in writer)


def disk_full_message(folder: Path, checkpoint_bytes: int | None) -> str:
    """What was being written where, and what to do."""
    complete = complete_checkpoints(folder)
    checkpoint_bytes = checkpoint_size(complete[-1]) if complete else checkpoint_bytes
    size = "" if checkpoint_bytes is None else f" One checkpoint takes {readable_size(checkpoint_bytes)}."
    return (
        f"Could not write: the disk of {folder} is full, or a quota is used up "
        f"({readable_size(shutil.disk_usage(_existing(folder)).free)} free; nothing half-written was kept).{size} Free "
        f"some space, or keep fewer checkpoints (--save_total_limit). {_last_checkpoint(folder)} {_RESUMES}"
    )


_RESUMES = "The same command resumes from there."


def _last_checkpoint(folder: Path) -> str:
    complete = complete_checkpoints(folder)
    if not complete:
        return f"There is no complete checkpoint in {folder} yet."
    return f"The last complete checkpoint is {complete[-1]}."


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.absolute().parent)


def _best_beside(checkpoint: Path) -> str | None:
    """The best checkpoint of a run whose folder was moved since it was noted, if it lies beside ``checkpoint``."""
    noted = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).best_model_checkpoint
    best = None if noted is None else checkpoint.parent / Path(noted).name
    return str(best) if best is not None and is_complete(best) else None


def _all_finite(model: torch.nn.Module) -> bool:
    """Whether all trained weights of this process are finite; one wait for the device."""
    weights = (parameter.detach() for parameter in model.parameters() if parameter.requires_grad)
    local = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    return bool(torch.stack([weight.isfinite().all() for weight in local]).all())


def _warn_of_other_processes(checkpoint: Path, num_processes: int) -> None:
    written = len(list(checkpoint.glob("rng_state*.pth")))  # one from each process
    if written not in (0, num_processes):
        logger.warning(
            "%s was written by %d processes and is resumed on %d: batches and results differ from an unbroken run's.",
            checkpoint,
            written,
            num_processes,
        )


def _is_lost_process(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError) or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return False
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)


def _lost_process_message(folder: Path) -> str:
    return (
        "Another process of this launch ended, or cannot be reached: its own message, if it had time for one, says why "
        f"(without one it was killed, often for want of memory). {_last_checkpoint(folder)} {_RESUMES}"
    )


@contextmanager
def _message_on_sigterm(folder: Path) -> Iterator[None]:
    """A launcher ends the processes that are left with SIGTERM, and so does a cluster that wants its machine back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        message = (
            "Told to end (SIGTERM), as a launcher does when another process of this launch has ended, or a cluster "
            f"when time is up. {_last_checkpoint(folder)} {_RESUMES}\n"
        )
        if os.getpid() == process:  # and not a worker that was forked from it
            os.write(2, message.encode())  # not print: the signal may have come in the middle of one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
