"""The instruments of benchmarks/decoding.py: clocks, peak memory, what the machine can do, what a step needs."""

import ctypes
import gc
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.beam_walk import BeamWalk

_RESET_PEAK = "5"  # proc(5): resets the high-water mark of resident memory


class Clock:
    """Marks on the device's time line; a mark never waits for the device."""

    def __init__(self, device: str) -> None:
        self._cuda = torch.device(device).type == "cuda"

    def mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        if not self._cuda:
            return end - start
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def time(self, work: Callable[[], object], repeats: int, before: Callable[[], object] | None = None) -> float:
        """Median seconds of ``work``, after one call that is not counted; ``before`` runs ahead of each, untimed."""
        work()
        seconds = []
        for _ in range(repeats):
            if before is not None:
                before()
            if self._cuda:
                torch.cuda.synchronize()
            start = self.mark()
            work()
            seconds.append(self.seconds(start, self.mark()))
        return statistics.median(seconds)


@contextmanager
def forward_marks(model: PreTrainedModel, clock: Clock) -> Iterator[list[Any]]:
    """A mark at the start of every pass through the decoder: the prefill, then one for each level."""
    marks: list[Any] = []
    hook = model.get_decoder().register_forward_pre_hook(lambda *_: marks.append(clock.mark()))
    try:
        yield marks
    finally:
        hook.remove()


@contextmanager
def timed_calls(processor: type, clock: Clock) -> Iterator[list[tuple[Any, Any]]]:
    """Start and end marks of every call of a kind of logits processor."""
    spans: list[tuple[Any, Any]] = []
    original = processor.__call__

    def timed(self: Any, input_ids: Tensor, scores: Tensor) -> Tensor:
        start = clock.mark()
        result = original(self, input_ids, scores)
        spans.append((start, clock.mark()))
        return result

    processor.__call__ = timed
    try:
        yield spans
    finally:
        processor.__call__ = original


@contextmanager
def timed_search(search: BeamSearch, clock: Clock) -> Iterator[list[tuple[Any, Any]]]:
    """Start and end marks of what is constraint in a search: all from the look-up to the choice, but the head."""
    spans: list[tuple[Any, Any]] = []
    heads: list[tuple[Any, Any]] = []
    starts: list[Any] = []

    def timed_head(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = clock.mark()
            result = work(*args)
            heads.append((start, clock.mark()))
            return result

        return call

    children, keep, logits = BeamWalk.children, BeamWalk.keep, search._code_logits

    def timed_children(walk: BeamWalk) -> Any:
        starts.append(clock.mark())
        return children(walk)

    def timed_keep(walk: BeamWalk, *args: Any) -> Any:
        result = keep(walk, *args)
        spans.extend([(starts[-1], heads[-1][0]), (heads[-1][1], clock.mark())])
        return result

    with (
        mock.patch.object(logits, "log_probs", timed_head(logits.log_probs)),
        mock.patch.object(logits, "logits", timed_head(logits.logits)),
        mock.patch.object(BeamWalk, "children", timed_children),
        mock.patch.object(BeamWalk, "keep", timed_keep),
    ):
        yield spans


class PeakMemory:
    """Memory beyond what is held at the start: of the CUDA allocator, or resident memory of this process.

    Freed memory goes back to the system first.
    """

    def __init__(self, device: str) -> None:
        self._cuda = torch.device(device).type == "cuda"
        release_freed_memory()
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
            return
        self.resets = _reset_peak()
        self._start = resident_bytes()

    @property
    def how(self) -> str:
        if self._cuda:
            return "torch.cuda.max_memory_allocated less memory_allocated before"
        return "VmHWM, reset before, less VmRSS before" if self.resets else "ru_maxrss less resident memory before"

    def peak_bytes(self) -> int:
        if self._cuda:
            return torch.cuda.max_memory_allocated() - self._start
        peak = _status_bytes("VmHWM") if self.resets else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(0, peak - self._start)


def release_freed_memory() -> None:
    """Give what is free back to the system, where the C library can do that (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Of this process."""
    return _status_bytes("VmRSS")


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark measures the CPU's memory on Linux only.")


def hardware(device: str) -> dict[str, Any]:
    """Names and counts of what the run has."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    found = {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "llmrec", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def machine_rates(device: str, dtype: str) -> dict[str, float]:
    """Best measured copy bandwidth (bytes read and written, per second) and matrix rate (operations per second)."""
    clock, cuda = Clock(device), torch.device(device).type == "cuda"
    source = torch.zeros(2**28 if cuda else 2**26, device=device)
    target = torch.zeros_like(source)
    copy = min(clock.time(lambda: target.copy_(source), 1) for _ in range(5))
    size = 8192 if cuda else 2048
    matrix = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    matmul = min(clock.time(lambda: matrix @ matrix, 1) for _ in range(5))
    return {"bytes_per_s": 2 * source.nbytes / copy, "flops_per_s": 2 * size**3 / matmul}


@dataclass(frozen=True)
class Work:
    """The least that a piece of the search must move and compute."""

    bytes: float
    flops: float

    def seconds(self, rates: dict[str, float]) -> float:
        return max(self.bytes / rates["bytes_per_s"], self.flops / rates["flops_per_s"])


@dataclass(frozen=True)
class ModelSizes:
    """Of a decoder-only model, in parameters and bytes."""

    body: int
    hidden: int
    heads_width: int  # attention heads * head_dim, over all layers
    cache_bytes: int  # keys and values of one token
    element: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelSizes":
        config = model.config
        embeddings = {id(module.weight): module.weight.numel() for module in _vocabulary_modules(model)}
        head_dim, layers = config.head_dim, config.num_hidden_layers
        element = model.dtype.itemsize
        return cls(
            sum(parameter.numel() for parameter in model.parameters()) - sum(embeddings.values()),
            config.hidden_size,
            layers * config.num_attention_heads * head_dim,
            2 * layers * config.num_key_value_heads * head_dim * element,
            element,
        )

    def work(self, head_rows: int, users: int, beams: int, cached: int, depth: float) -> Work:
        """One pass of ``beams`` tokens for each user over a prompt of ``cached`` tokens and ``depth`` levels.

        Weights, the output rows of ``head_rows`` tokens and the cache are read once; a beam looks at the prompt and its
        own ancestors.
        """
        rows = users * beams
        head = head_rows * self.hidden
        attention = 4 * self.heads_width * (cached + depth)
        return Work(
            (self.body + head) * self.element + users * (cached + beams * depth) * self.cache_bytes,
            rows * (2 * self.body + 2 * head + attention),
        )


def _vocabulary_modules(model: PreTrainedModel) -> list[nn.Module]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]
