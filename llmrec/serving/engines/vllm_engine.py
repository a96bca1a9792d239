"""The engine over vLLM: constrained beams as waves of one-token requests, and free text as vLLM writes it."""

import asyncio
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmrec.baselines import Fusion
from llmrec.catalog import Catalog
from llmrec.decoding.beam_walk import BeamWalk, Children
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.item_prior import ItemPrior
from llmrec.decoding.rules import ItemSubsets, batch_rules
from llmrec.decoding.trace import BeamTrace
from llmrec.evaluation.recommender import prior_scores
from llmrec.serving.checkpoint import EngineOptions, ServedCheckpoint
from llmrec.serving.engines.engine import Engine, LoadedCatalog, RankedList, RankRequest, TextChunk, TextRequest
from llmrec.serving.engines.ranked_lists import ranked_lists
from llmrec.serving.engines.vllm_start import prepare_vllm, runs_on_cpu, vllm_dtype

if TYPE_CHECKING:
    from vllm import SamplingParams

_PROCESSOR = "llmrec.serving.engines.vllm_processor:CatalogLogitsProcessor"


@dataclass(frozen=True)
class _Walked(LoadedCatalog):
    trie: DeviceTrie
    subsets: ItemSubsets
    arguments: dict[str, str]  # for the processor: which trie this is; none for the checkpoint's own
    fusion: Fusion | None


class VllmEngine(Engine):
    """Beams are ours: the trie is walked here, vLLM scores.

    A level of a search is one request of one token for each live beam, whose prompt is the user's and the beam's
    tokens: the prefix cache holds all but the end of it. Each asks for as many log-probabilities as its prefix has
    valid continuations that could live on, few below the first level, where stock beams ask for two for each beam.
    Rules are kept here and never cross to the engine: enough more are asked for.

    Args:
        checkpoint: to serve.
        options: of these, all but ``device``, ``max_batch_size`` and ``num_workers``.

    Raises:
        ImportError: if vLLM is not installed.
        ValueError: if vLLM does not run this kind of model.
    """

    name = "vllm"

    def __init__(self, checkpoint: ServedCheckpoint, options: EngineOptions) -> None:
        # the interface of our logits processor; where CUDA would choose the other runner
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        prepare_vllm()
        if checkpoint.is_encoder_decoder:
            raise ValueError(
                f"{checkpoint.folder} holds an encoder-decoder ({checkpoint.model_config.model_type}), which vLLM does "
                "not run. Serve it with --engine transformers."
            )
        self._checkpoint = checkpoint
        self._options = options
        self._scores = options.scores or checkpoint.scores
        self._folder = Path(tempfile.mkdtemp(prefix="llmrec-tries-"))
        self._numbers = count()
        self._running = 0

    async def start(self) -> None:
        from vllm import AsyncEngineArgs  # noqa: PLC0415 -- an extra
        from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415 -- as above
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 -- as above

        from llmrec.serving.engines.vllm_processor import SCORES_OPTION, TRIES_OPTION  # noqa: PLC0415 -- as above

        on_cpu = runs_on_cpu()
        dtype: Any = vllm_dtype(self._options.dtype, self._checkpoint.model_config)
        arguments = AsyncEngineArgs(
            model=str(self._checkpoint.folder),
            dtype=dtype,
            tensor_parallel_size=self._options.tensor_parallel_size,
            data_parallel_size=self._options.data_parallel_size,
            enable_prefix_caching=True,
            # whole blocks are cached: small ones leave less of a prompt to run again for each beam
            block_size=32 if on_cpu else None,
            enforce_eager=on_cpu,
            logits_processors=[_PROCESSOR],
            logprobs_mode="processed_logits",
            max_logprobs=max(2 * self._options.max_num_beams, *self._checkpoint.catalog.codebook_sizes),
            additional_config={TRIES_OPTION: str(self._folder), SCORES_OPTION: self._scores},
            disable_log_stats=True,
        )
        # with the batch sizes of vLLM's own server
        self._engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
        if self._options.beam_search == "stock":
            from llmrec.serving.engines.vllm_stock import StockBeams  # noqa: PLC0415 -- as above

            self._stock = StockBeams(self._engine)

    async def load(self, catalog: Catalog, folder: Path) -> LoadedCatalog:  # noqa: ARG002 -- the catalog is all of it
        if self._options.beam_search == "stock" and catalog.fingerprint != self._checkpoint.catalog.fingerprint:
            raise ValueError("Stock beams know the checkpoint's own catalogue only: serve with --beam_search llmrec.")
        return await asyncio.to_thread(self._load, catalog)

    def _load(self, catalog: Catalog) -> _Walked:
        renderer = self._checkpoint.renderer(catalog)
        trie = DeviceTrie(renderer.trie, renderer.code_token_ids)
        fusion = self._checkpoint.fusion(catalog)
        shared = catalog, self._checkpoint.prompter(catalog), trie, ItemSubsets(trie, {})
        if catalog.fingerprint == self._checkpoint.catalog.fingerprint:
            return _Walked(*shared, {}, fusion)
        name = secrets.token_hex(8)
        trie.trie.save(self._folder / name)
        walked = _Walked(*shared, {"catalog": name}, fusion)
        # requests hold on to what they are answered from: with the last of them the files go
        weakref.finalize(walked, shutil.rmtree, self._folder / name, ignore_errors=True)
        return walked

    async def rank(self, loaded: LoadedCatalog, request: RankRequest) -> RankedList:
        assert isinstance(loaded, _Walked)
        self._check(loaded, request)
        self._running += 1
        try:
            if self._options.beam_search == "stock":
                return await self._stock.rank(loaded.catalog, loaded.trie, request)
            return await self._rank(loaded, request)
        finally:
            self._running -= 1

    async def _rank(self, loaded: _Walked, request: RankRequest) -> RankedList:
        limits = batch_rules(loaded.trie, [request.rules], loaded.subsets, 1)
        trace, mixed = BeamTrace(), prior_scores(loaded.fusion, [request.history])
        prior = None if mixed is None else ItemPrior(loaded.trie, mixed, limits)
        walk = BeamWalk(loaded.trie, 1, request.num_beams, request.k, limits, request.max_per_first_code, trace, prior)
        prompts = [list(request.prompt)]
        while not walk.finished:
            depth, children = walk.depth, walk.children()
            # a trace shows some of those that die too, and a prior may lift any child above others
            width = 2 * request.num_beams if request.trace else request.num_beams
            width = width if prior is None else loaded.trie.trie.max_children[depth]
            log_probs = await self._score(loaded, depth, prompts, children, width)
            codes, parents = walk.keep(children, log_probs)
            tokens = loaded.trie.code_tokens[depth][codes[0].clamp(min=0)].tolist()
            prompts = [[*prompts[parent], token] for parent, token in zip(parents[0].tolist(), tokens, strict=True)]
        (answer,) = ranked_lists(loaded.trie, walk.ranked(), trace, [request])
        return answer

    async def _score(
        self, loaded: _Walked, depth: int, prompts: Sequence[list[int]], children: Children, width: int
    ) -> Tensor:
        """Log-probabilities (1, beams, branching) of the best ``width`` allowed children of each beam, else -inf."""
        num_valid, num_allowed = children.valid[0].sum(-1).tolist(), children.allowed[0].sum(-1).tolist()
        live = [beam for beam, allowed in enumerate(num_allowed) if allowed]
        # a child that rules forbid may come before one that they allow
        wanted = [min(num_valid[beam], width + num_valid[beam] - num_allowed[beam]) for beam in live]
        asked = zip(live, wanted, strict=True)
        answers = await asyncio.gather(
            *(self._next_tokens(prompts[beam], len(prompts[beam]) - depth, number, loaded) for beam, number in asked)
        )
        by_code = np.full((len(prompts), len(loaded.trie.code_tokens[depth])), -np.inf, dtype=np.float32)
        code_of = loaded.trie.token_codes[depth].numpy()
        for beam, (tokens, values) in zip(live, answers, strict=True):
            known = tokens < len(code_of)
            codes = code_of[tokens[known]]
            by_code[beam, codes[codes >= 0]] = values[known][codes >= 0]
        return torch.from_numpy(by_code).unsqueeze(0).gather(-1, children.codes.clamp(min=0))

    async def _next_tokens(
        self, prompt: list[int], prompt_length: int, number: int, loaded: _Walked
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``number`` most likely valid next tokens, and their log-probabilities."""
        from vllm import SamplingParams  # noqa: PLC0415 -- as above

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=number,
            flat_logprobs=True,
            detokenize=False,
            skip_clone=True,
            extra_args={**loaded.arguments, "prompt_length": prompt_length},
        )
        # to its end: a generator that is left early aborts its request
        found = [output.outputs[0].logprobs async for output in self._generate(prompt, params)][-1]
        return np.array(found.token_ids), np.array(found.logprobs, dtype=np.float32)

    async def generate(self, request: TextRequest) -> AsyncIterator[TextChunk]:
        from vllm import SamplingParams  # noqa: PLC0415 -- as above
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415 -- as above

        request.check_room(self._engine.model_config.max_model_len)
        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=list(request.stop),
            output_kind=RequestOutputKind.DELTA,
            extra_args={"constrained": False},
        )
        self._running += 1
        try:
            async for output in self._generate(list(request.prompt), params):
                piece = output.outputs[0]
                yield TextChunk(piece.text, len(piece.token_ids), piece.finish_reason if output.finished else None)
        finally:
            self._running -= 1

    async def check(self) -> None:
        await self._engine.check_health()

    async def close(self) -> None:
        while self._running:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._engine.shutdown)
        del self._engine  # it would shut down once more when the interpreter ends, and fail
        shutil.rmtree(self._folder, ignore_errors=True)

    def _generate(self, prompt: list[int], params: "SamplingParams") -> Any:
        from vllm.inputs import tokens_input  # noqa: PLC0415 -- as above

        return self._engine.generate(tokens_input(prompt), params, f"llmrec-{next(self._numbers)}")

    def _check(self, loaded: _Walked, request: RankRequest) -> None:
        if not 0 < request.k <= request.num_beams:
            raise ValueError(f"k is {request.k}; it needs 1 <= k <= num_beams, and num_beams is {request.num_beams}.")
        if request.num_beams > self._options.max_num_beams:
            raise ValueError(
                f"num_beams is {request.num_beams}; this server was started for {self._options.max_num_beams} at most."
            )
        room = self._engine.model_config.max_model_len - loaded.catalog.num_codebooks
        if not 0 < len(request.prompt) <= room:
            raise ValueError(f"The prompt has {len(request.prompt)} tokens; 1 to {room} leave room for a semantic ID.")
