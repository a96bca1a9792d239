"""The trainer's checkpoints on disk: which are complete, which go, and how much room they take.

A checkpoint is written in place by several processes, so that it exists long before all of it is there. It counts once
``complete.json`` lies in it, which one process writes after all others are done: name and size of every file.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.training_args import OptimizerNames

from llmrec.atomic import atomic_path
from llmrec.training.muon import layer_matrices

logger = logging.getLogger(__name__)

COMPLETE_FILE = "complete.json"


def mark_complete(checkpoint: Path, inputs: Mapping[str, str]) -> None:
    """Say that all of ``checkpoint`` is written. Its files are flushed to the disk first: a machine may lose power.

    Args:
        checkpoint: folder that all processes have finished writing.
        inputs: fingerprints of what the run is trained on.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    content = {
        "inputs": dict(inputs),
        "files": {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files},
    }
    with atomic_path(checkpoint / COMPLETE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        _flush(temporary)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of ``checkpoint`` is there with the size it was written with."""
    content = _read_complete_file(checkpoint)
    return content is not None and all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
        for name, size in content["files"].items()
    )


def checkpoint_inputs(checkpoint: Path) -> dict[str, str]:
    """Fingerprints of what a complete ``checkpoint`` was trained on."""
    return json.loads((checkpoint / COMPLETE_FILE).read_text())["inputs"]


def checkpoint_size(checkpoint: Path) -> int:
    """Bytes of a complete ``checkpoint``."""
    return sum(json.loads((checkpoint / COMPLETE_FILE).read_text())["files"].values())


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a run's ``folder``, oldest step first."""
    return [checkpoint for checkpoint in _checkpoints(folder) if is_complete(checkpoint)]


def remove_incomplete(folder: Path) -> None:
    """Remove what an interrupted run left half-written, or half-removed, in its ``folder``."""
    for checkpoint in _checkpoints(folder):
        if not is_complete(checkpoint):
            logger.warning("%s is incomplete (writing or removing it was interrupted): removed.", checkpoint)
            shutil.rmtree(checkpoint)


def remove_older(folder: Path, newest_step: int, save_total_limit: int | None, best: str | None) -> None:
    """Keep ``save_total_limit`` checkpoints, among them the newest and the best; call it once the newest is complete.

    Later steps than the newest were left by a run that has been resumed from an earlier checkpoint, and go too.
    """
    for checkpoint in _checkpoints(folder):
        if _step(checkpoint) > newest_step:
            logger.warning("%s is later than the checkpoint that the run was resumed from: removed.", checkpoint)
            shutil.rmtree(checkpoint)
    rotate_checkpoints(str(folder), save_total_limit, best)


def check_free_space(folder: Path, model: nn.Module, args: TrainingArguments, num_saves: int) -> None:
    """See before training that its checkpoints and the final model fit on the disk of ``folder``.

    The need is a lower bound, so that a run is refused only if it would fail: see ``estimated_checkpoint_size``.

    Args:
        folder: of the run.
        model: before it is wrapped for many processes.
        args: its ``save_total_limit`` and what is saved.
        num_saves: checkpoints that the whole run writes.

    Raises:
        OSError: if they do not fit.
    """
    kept = max(args.save_total_limit or 1, 2 if args.load_best_model_at_end else 1)
    most = min(kept + 1, num_saves)  # a new checkpoint is complete before an old one goes
    checkpoint, final = estimated_checkpoint_size(model, args), _num_bytes(model.parameters())
    there = sum(checkpoint_size(path) for path in complete_checkpoints(folder))
    needed, free = max(most * checkpoint - there, 0) + final, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {readable_size(free)} free, and this run needs {readable_size(needed)}: up to {most} "
            f"checkpoints at once, each of {readable_size(checkpoint)}, and a final model of {readable_size(final)}. "
            "Free some space, name an --output_dir on another disk, keep fewer checkpoints (--save_total_limit 1), or "
            "save weights without the optimizer's state (--save_only_model True; resuming is then not exact)."
        )


def estimated_checkpoint_size(model: nn.Module, args: TrainingArguments) -> int:
    """Bytes that a checkpoint takes at least: the weights that are saved, and AdamW's two moments of the trained ones.

    Of a matrix that Muon trains there is one.

    DeepSpeed and FSDP write more (32-bit copies), and other optimizers than AdamW are not counted.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    by_muon = layer_matrices(model) if getattr(args, "muon", False) else []
    size = _num_bytes(trained if isinstance(model, PeftModel) else model.parameters())
    if not args.save_only_model and args.optim in (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED):
        size += 2 * _num_bytes(trained) - _num_bytes(by_muon)
    return size


def readable_size(size: int) -> str:
    """``size`` bytes in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _checkpoints(folder: Path) -> list[Path]:
    names = (path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal())
    return sorted(names, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _read_complete_file(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return json.loads((checkpoint / COMPLETE_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _num_bytes(parameters: Iterable[torch.Tensor]) -> int:
    # ZeRO-3 leaves an empty tensor and says in ds_numel how many there are
    return sum(getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size() for parameter in parameters)
