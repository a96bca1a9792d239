"""Many processes: started on machines without GPUs, one share of the users each, and whole weights out of shards."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, reduce
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl.models import unwrap_model_for_generation


def start_cpu_processes(timeout: int) -> None:
    """Connect the processes that a launcher started on machines without GPUs; nothing to do for a single process.

    Has to come before Accelerate's first state, which under DeepSpeed would see one process for each rank and otherwise
    would not know the timeout.

    Args:
        timeout: seconds that a process waits for the others.
    """
    if "LOCAL_RANK" not in os.environ or torch.distributed.is_initialized():
        return
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        import deepspeed  # noqa: PLC0415 -- an extra

        # compiled at the first start, for a minute and with a C++ compiler, and read by DeepSpeed's inference only
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def shard_on_cpu() -> None:
    """Let Accelerate shard with FSDP over gloo: it does so for GPUs only, and torch for both.

    Has to come after the training arguments, which make Accelerate's state, and before the trainer.
    """
    state = PartialState()
    if _flag("ACCELERATE_USE_FSDP") and state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def check_sharding(quantized: bool, adapter: bool, muon: bool = False) -> None:
    """Refuse a tuning mode whose weights the launch could not shard.

    Args:
        quantized: whether weights are loaded in 4 or 8 bits.
        adapter: whether an adapter is trained: LoRA, new vocabulary rows alone.
        muon: whether Muon trains the matrices.

    Raises:
        ValueError: for quantized weights under ZeRO-3, for both under FSDP, and for Muon under any of them.
    """
    zero3, fsdp = _zero3(), _flag("ACCELERATE_USE_FSDP")
    if quantized and (zero3 or fsdp):
        raise ValueError(
            "Weights in 4 or 8 bits cannot be sharded. Launch with accelerate_configs/multi_gpu.yaml or zero2.yaml, "
            "where each process holds them whole, or leave out --load_in_4bit and --load_in_8bit."
        )
    if adapter and fsdp:
        raise ValueError(
            "FSDP cannot shard an embedding of which some rows are trained. Launch with accelerate_configs/zero3.yaml, "
            "or with multi_gpu.yaml or zero2.yaml, where each process holds the weights whole."
        )
    if muon and (fsdp or _flag("ACCELERATE_USE_DEEPSPEED")):
        raise ValueError(
            "Muon steps along whole matrices, which DeepSpeed and FSDP cut into pieces: give --muon false, or launch "
            "with accelerate_configs/multi_gpu.yaml."
        )


def check_whole(what: str) -> None:
    """Refuse a launch that would shard weights which ``what`` needs whole.

    Raises:
        ValueError: under ZeRO-3 and FSDP.
    """
    if _zero3() or _flag("ACCELERATE_USE_FSDP"):
        raise ValueError(
            f"{what} needs the weights whole on every process: launch with accelerate_configs/multi_gpu.yaml or "
            "zero2.yaml."
        )


def check_not_zero3(what: str) -> None:
    """Refuse a launch under ZeRO-3 for ``what`` was not seen to run there.

    Raises:
        ValueError: under ZeRO-3.
    """
    if _zero3():
        raise ValueError(f"{what} does not run under ZeRO-3: launch with accelerate_configs/fsdp2.yaml or zero2.yaml.")


def share_rows(lengths: Sequence[int], batch_size: int) -> np.ndarray:
    """Rows that this process ranks, int64: every so manieth batch of rows sorted by length, longest first.

    Batches are those of a single process, so the results are the same to the last bit.

    Args:
        lengths: length of each row's prompt, in any unit.
        batch_size: rows in a batch.
    """
    state = PartialState()
    order = np.argsort([-length for length in lengths], kind="stable")
    starts = range(state.process_index * batch_size, len(order), state.num_processes * batch_size)
    return np.concatenate([order[:0], *(order[start : start + batch_size] for start in starts)])


def gather_rows(rows: np.ndarray, values: np.ndarray, num_rows: int) -> np.ndarray:
    """All rows in order, on every process, from what each has of ``share_rows``.

    Args:
        rows: of this process, shape (num_mine,).
        values: integers of these rows, shape (num_mine, width).
        num_rows: of all processes together.

    Returns:
        int64 array of shape (num_rows, width).
    """
    everything = torch.zeros(num_rows, values.shape[1], dtype=torch.int64)
    everything[torch.from_numpy(rows)] = torch.from_numpy(values)
    return reduce(everything.to(PartialState().device), reduction="sum").cpu().numpy()


@contextmanager
def whole_model(trainer: Trainer) -> Iterator[PreTrainedModel]:
    """The trainer's model with all of its weights on this process, for ranking; every process has to enter.

    Sharded weights (ZeRO-3, FSDP2) are gathered once, so inside no process waits for another.
    """
    if isinstance(trainer.model, FSDPModule):
        with _unsharded(trainer.model):
            yield trainer.model
        return
    options = {"gradient_checkpointing_kwargs": trainer.args.gradient_checkpointing_kwargs}
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **options) as model:
        yield model


@contextmanager
def _unsharded(model: Any) -> Iterator[None]:
    # before any part of it is called by itself: the first to be called would take itself for the root
    model._get_fsdp_state()._lazy_init()
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            # embedding and head stay whole between forward and backward, as Accelerate wants: TRL's loss reads the head
            if type(part).__name__.removeprefix("FSDP") in model._no_split_modules:
                part.set_reshard_after_forward(True, recurse=False)
        model.reset_iter_state()  # shards everything again


def whole_state_dict(trainer: Trainer) -> dict[str, Tensor] | None:
    """All weights, on the main process only, where processes hold shards of them (ZeRO-3, FSDP2); else None.

    Every process has to call it.
    """
    plugin = trainer.accelerator.state.deepspeed_plugin
    if not trainer.accelerator.is_fsdp2 and (plugin is None or plugin.zero_stage != 3):
        return None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    tied = trainer.accelerator.unwrap_model(trainer.model).all_tied_weights_keys
    return {name: weight for name, weight in weights.items() if name not in tied}


def end_training(trainer: Trainer) -> torch.device:
    """Wait until the main process has saved, and give back what training held; returns this process' device."""
    trainer.accelerator.wait_for_everyone()
    device = trainer.accelerator.device
    unset_hf_deepspeed_config()  # from here on, models are loaded whole
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = None
    return device


def _zero3() -> bool:
    return _flag("ACCELERATE_USE_DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
