"""The checkpoint behind a server: what belongs together, checked before any weight is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from transformers import AutoConfig, PreTrainedConfig

from llmrec.baselines import Fusion
from llmrec.catalog import Catalog
from llmrec.decoding.beam_search import DEFAULT_SCORES, ScoreKind
from llmrec.evaluation.recommender import Recommender
from llmrec.hub import LREM, SETREC, load_checkpoint
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.prompts.history import history_prompt
from llmrec.prompts.lcrec import seqrec_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment
from llmrec.prompts.titles import TitleRenderer
from llmrec.prompts.ulmrec import user_opening
from llmrec.schema import DataError
from llmrec.serving.engines.engine import Engine, Prompter
from llmrec.serving.lrem_checkpoint import ServedLrem
from llmrec.serving.served import ServedFiles
from llmrec.vector_index import IndexKind
from llmrec.vocabulary import ItemVocabulary

EngineKind = Literal["transformers", "vllm"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class EngineOptions:
    """How a model is run.

    Args:
        scores: what beams are ranked by; None takes what the checkpoint was validated with.
        device: of the transformers engine: ``auto`` takes a GPU where there is one.
        dtype: ``auto`` keeps the precision that the checkpoint was saved in.
        max_batch_size: lists that the transformers engine ranks in one batch.
        num_workers: batches that the transformers engine ranks at the same time, each on its share of the cores; None
            takes 1 on a GPU, and up to 4 on a CPU. Small models gain more from another batch than from threads that
            wait for each other in every operation.
        max_num_beams: widest search that the vLLM engine gets ready for.
        tensor_parallel_size: GPUs that vLLM splits the model over.
        data_parallel_size: copies of the model that vLLM spreads requests over.
        beam_search: of the vLLM engine: ours, or vLLM's stock loop for comparison, in which the model ranks alone.
        index: of models that score or search the whole catalogue: ``approximate`` looks at a part of a large one.

    Raises:
        ValueError: if a number is below 1, or the dtype is not one of ``DTYPES``.
    """

    scores: ScoreKind | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_batch_size: int = 32
    num_workers: int | None = None
    max_num_beams: int = 100
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    beam_search: Literal["llmrec", "stock"] = "llmrec"
    index: IndexKind = "exact"

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_num_beams", "tensor_parallel_size", "data_parallel_size", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; allowed are {', '.join(DTYPES)}.")


@dataclass(frozen=True)
class ServedCheckpoint(ServedFiles):
    """A checkpoint whose model, tokenizer and catalogue were found to belong together.

    Args:
        name: last part of the folder's or the Hub's name.
        checkpoint: its files.
        vocabulary: item tokens in its tokenizer.
        users: of ULMRec: whose indices stand at the head of prompts.
    """

    vocabulary: ItemVocabulary
    #: Of ULMRec: whose indices stand at the head of prompts.
    users: UserIndex | None = None

    #: Prompts are token ids.
    reads_items: ClassVar[bool] = False

    @cached_property
    def model_config(self) -> PreTrainedConfig:
        return AutoConfig.from_pretrained(self.folder)

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.model_config.is_encoder_decoder)

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt of a decoder-only model that leaves room for a semantic ID; None where nothing limits it."""
        positions = getattr(self.model_config.get_text_config(), "max_position_embeddings", None)
        return None if self.is_encoder_decoder or positions is None else positions - self._answer_tokens

    @cached_property
    def _answer_tokens(self) -> int:
        """Of the longest answer."""
        return self.catalog.num_codebooks or self.renderer(self.catalog).trie.num_codebooks

    @property
    def prompt(self) -> Callable[[Sequence[str]], list[Segment]]:
        """Segments that ask for the item after a history of item ids, worded as in training."""
        return history_prompt if self.checkpoint.config.get("history_loss", "all") == "all" else seqrec_prompt

    @property
    def max_history(self) -> int:
        return self.checkpoint.config["max_history"]

    @property
    def num_beams(self) -> int:
        """The width that the checkpoint was validated with."""
        return self.checkpoint.config["num_beams"]

    @property
    def scores(self) -> ScoreKind:
        return self.checkpoint.config.get("beam_scores", DEFAULT_SCORES)

    def renderer(self, catalog: Catalog) -> SegmentRenderer:
        """Renders prompts over ``catalog``, which has the codebooks that the model was trained with.

        Raises:
            ValueError: if the tokenizer lacks a code's token.
        """
        vocabulary = self.vocabulary
        if catalog.codebook_sizes != vocabulary.codebook_sizes:
            vocabulary = ItemVocabulary(self.tokenizer, catalog.codebook_sizes, vocabulary.user_codebook_sizes)
        return (SegmentRenderer if catalog.num_codebooks else TitleRenderer)(catalog, vocabulary)

    def recommender(self, num_beams: int | None = None, scores: ScoreKind | None = None) -> Recommender:
        """The recommender that the checkpoint was validated with, but for what is given."""
        return Recommender(
            self.renderer(self.catalog),
            self.prompt,
            self.max_history,
            num_beams or self.num_beams,
            self.checkpoint.config["per_device_eval_batch_size"],
            scores or self.scores,
            self.users,
            self.checkpoint.fusion,
        )

    def fusion(self, catalog: Catalog) -> Fusion | None:
        """What the search over ``catalog`` mixes into the model's ranking."""
        fusion, trained = self.checkpoint.fusion, self.catalog
        if fusion is None or catalog.item_ids == trained.item_ids:
            return fusion
        return fusion.for_items(trained.item_ids, catalog.item_ids)

    def prompter(self, catalog: Catalog) -> Prompter:
        """``prompt_tokens`` over a catalog."""
        return partial(self.prompt_tokens, self.renderer(catalog))

    def check_catalog(self, catalog: Catalog) -> None:
        """Refuse a catalog whose semantic IDs are not those that the model was trained with.

        Raises:
            DataError: if it has other codebooks, or gives an item of the checkpoint another ID.
        """
        sizes = self.vocabulary.codebook_sizes
        if catalog.codebook_sizes != sizes:
            raise DataError(
                f"The catalogue has codebooks of sizes {list(catalog.codebook_sizes)}; the model has tokens for "
                f"{list(sizes)}. Make it with what made the checkpoint's semantic IDs."
            )
        trained = self.catalog
        rows = [(row, catalog.item_index.get(item_id)) for item_id, row in trained.item_index.items()]
        kept = np.array([pair for pair in rows if pair[1] is not None], dtype=np.int64).reshape(-1, 2)
        moved = (trained.semantic_ids[kept[:, 0]] != catalog.semantic_ids[kept[:, 1]]).any(axis=1)
        if moved.any():
            before, now = kept[moved.argmax()]
            raise DataError(
                f"Item {trained.item_ids[before]!r} has the semantic ID {catalog.semantic_ids[now].tolist()}; the "
                f"model was trained with {trained.semantic_ids[before].tolist()}. Items keep their IDs: add new ones "
                "with ItemTokenizer.extend."
            )

    def prompt_tokens(self, renderer: SegmentRenderer, history: Sequence[str], user_id: str | None = None) -> list[int]:
        """Token ids that ask for the item after ``history`` (item ids, oldest first; the latest ``max_history``)."""
        segments = self.prompt(history[-self.max_history :])
        if self.users is not None:
            # users are embedded from the items that they were embedded from in training
            known = self.catalog.item_index
            rows = [known[item_id] for item_id in history if item_id in known]
            segments = [*user_opening(self.users.codes_of(user_id, rows)), *segments]
        return renderer.prompt_tokens(segments, self.is_encoder_decoder)


@dataclass(frozen=True)
class ServedSetRec(ServedFiles):
    """A SETRec checkpoint: it reads items themselves, and answers with scores for all of them.

    Args:
        name: last part of the folder's or the Hub's name.
        checkpoint: its files.
    """

    #: Prompts are item indices.
    reads_items: ClassVar[bool] = True
    #: All items are scored, without beams.
    num_beams: ClassVar[int] = 1
    scores: ClassVar[ScoreKind] = DEFAULT_SCORES
    #: The latest items are read.
    max_prompt_tokens: ClassVar[None] = None
    #: Users are their histories.
    users: ClassVar[None] = None

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(AutoConfig.from_pretrained(self.folder).text_config.is_encoder_decoder)

    def prompter(self, catalog: Catalog) -> Prompter:
        """Item ids, oldest first, to the rows of the latest ones that the model reads; users are all alike to it."""
        max_history = self.checkpoint.prompts["max_history"]
        return lambda history, user_id=None: catalog.rows_of(history[-max_history:])  # noqa: ARG005

    def check_catalog(self, catalog: Catalog) -> None:
        """Refuse a catalog with semantic IDs, which is another method's.

        Raises:
            DataError: if it has them.
        """
        if catalog.num_codebooks:
            raise DataError("The catalogue has semantic IDs, and this model has none: it is another method's.")


#: What answers histories.
Recommending = ServedCheckpoint | ServedSetRec
Served = Recommending | ServedLrem


def open_served(name_or_path: str, revision: str | None = None) -> Served:
    """Open a checkpoint for serving, from a folder or the Hub.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        DataError, ValueError: if model, tokenizer and catalogue do not belong together.
    """
    checkpoint = load_checkpoint(name_or_path, revision)
    name = Path(name_or_path).name or "llmrec"
    if checkpoint.method == SETREC:
        return ServedSetRec(name, checkpoint)
    if checkpoint.method == LREM:
        return ServedLrem.open(name, checkpoint)
    if checkpoint.prompts.get("answer") == "letters":
        raise ValueError(
            f"{checkpoint.folder} answers with letters of a retriever's candidates, and a server has no retriever: "
            "serve a checkpoint that was trained with --answer semantic_ids or titles."
        )
    users = None if checkpoint.prompts.get("user_index", "none") == "none" else checkpoint.users
    has_tokens = users is not None and checkpoint.prompts["user_index"] == "added_tokens"
    sizes = users.codebook_sizes if users is not None and has_tokens else ()
    vocabulary = ItemVocabulary(checkpoint.tokenizer, checkpoint.catalog.codebook_sizes, sizes)
    served = ServedCheckpoint(name, checkpoint, vocabulary, users)
    rows = served.model_config.get_text_config().vocab_size
    if max(vocabulary.new_token_ids, default=0) >= rows:
        raise ValueError(
            f"{checkpoint.folder}: the tokenizer's item tokens go up to {max(vocabulary.new_token_ids)}, but the model "
            f"has {rows} rows. Tokenizer and weights are of different runs: save the checkpoint again."
        )
    return served


def open_recommending(name_or_path: str) -> Recommending:
    """Open a checkpoint that answers histories.

    Raises:
        DataError: if it searches for queries instead.
        FileNotFoundError, ValueError: as ``open_served``.
    """
    served = open_served(name_or_path)
    if isinstance(served, ServedLrem):
        raise DataError(
            f"{served.folder} searches for queries and recommends nothing: ask it with llmrec serve, or embed a "
            "catalogue with llmrec embed."
        )
    return served


def default_engine(checkpoint: Served) -> EngineKind:
    """``vllm`` where it is installed and runs the model, else ``transformers``."""
    if not checkpoint.catalog.num_codebooks or find_spec("vllm") is None or checkpoint.is_encoder_decoder:
        return "transformers"
    return "vllm"


def make_engine(kind: EngineKind, checkpoint: Served, options: EngineOptions) -> Engine:
    """The engine ``kind`` over a checkpoint, not started yet.

    Raises:
        ImportError: if vLLM is asked for and not installed.
        ValueError: if vLLM can't run this model.
    """
    if isinstance(checkpoint, ServedSetRec):
        if kind == "vllm":
            raise ValueError("vLLM has no attention of SETRec's kind: serve it with --engine transformers.")
        if options.scores is not None:
            raise ValueError(f"scores is {options.scores!r}, and a SETRec model ranks without beams: leave it out.")
        from llmrec.serving.engines.setrec_engine import SetRecEngine  # noqa: PLC0415 -- one engine is imported

        return SetRecEngine(checkpoint, options)
    if isinstance(checkpoint, ServedLrem):
        return _make_lrem_engine(kind, checkpoint, options)
    if options.index != EngineOptions.index:
        raise ValueError(f"index is {options.index!r}, and this model searches its trie, not vectors: leave it out.")
    if kind == "transformers":
        from llmrec.serving.engines.transformers_engine import TransformersEngine  # noqa: PLC0415 -- one engine is imported

        return TransformersEngine(checkpoint, options)
    if not checkpoint.catalog.num_codebooks:
        raise ValueError("This model answers with titles: serve it with --engine transformers.")
    from llmrec.serving.engines.vllm_engine import VllmEngine  # noqa: PLC0415 -- vllm is an extra

    return VllmEngine(checkpoint, options)


def _make_lrem_engine(kind: EngineKind, checkpoint: ServedLrem, options: EngineOptions) -> Engine:
    for name in ("scores", "beam_search"):
        if getattr(options, name) != getattr(EngineOptions, name):
            raise ValueError(f"{name} is {getattr(options, name)!r}, and an LREM model has no beams: leave it out.")
    if kind == "transformers":
        from llmrec.serving.engines.lrem_engine import LremEngine  # noqa: PLC0415 -- one engine is imported

        return LremEngine(checkpoint, options)
    from llmrec.serving.engines.lrem_vllm_engine import LremVllmEngine  # noqa: PLC0415 -- vllm is an extra

    return LremVllmEngine(checkpoint, options)
