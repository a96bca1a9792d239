"""LREM with its thoughts written by vLLM, and embedded by one further pass of the model in this process."""

import asyncio
from itertools import count
from typing import Any

import torch
from transformers import AutoConfig

from llmrec.serving.checkpoint import EngineOptions
from llmrec.serving.engines.engine import EmbedRequest
from llmrec.serving.engines.lrem_engine import Answered, Asked, LremEngine, Search
from llmrec.serving.engines.vllm_start import prepare_vllm, runs_on_cpu, vllm_dtype
from llmrec.serving.lrem_checkpoint import ServedLrem

#: Of the memory that is free on a GPU once the model has been loaded here, vLLM takes so much.
_MEMORY_SHARE = 0.85


class LremVllmEngine(LremEngine):
    """vLLM writes keywords, many queries' at a time, and gives no hidden states: embeddings come from ``LremEngine``.

    So there are two copies of the model, and vLLM gets what the first leaves of a GPU's memory.

    Args:
        checkpoint: to serve.
        options: of these, all but ``scores``, ``beam_search`` and ``max_num_beams``.

    Raises:
        ImportError: if vLLM is not installed.
    """

    name = "vllm"

    def __init__(self, checkpoint: ServedLrem, options: EngineOptions) -> None:
        prepare_vllm()
        super().__init__(checkpoint, options)
        self._numbers = count()
        self._running = 0

    async def start(self) -> None:
        await super().start()
        from vllm import AsyncEngineArgs  # noqa: PLC0415 -- an extra
        from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415 -- as above
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 -- as above

        on_cpu = runs_on_cpu()
        checkpoint, options = self._checkpoint, self._options
        prompts = checkpoint.prompts
        dtype: Any = vllm_dtype(options.dtype, AutoConfig.from_pretrained(checkpoint.folder))
        free, total = (1, 1) if on_cpu else torch.cuda.mem_get_info()
        arguments = AsyncEngineArgs(
            model=str(checkpoint.folder),
            dtype=dtype,
            tensor_parallel_size=options.tensor_parallel_size,
            data_parallel_size=options.data_parallel_size,
            gpu_memory_utilization=_MEMORY_SHARE * free / total,
            # no query is longer: the words around it, its own, the opening token and the thought
            max_model_len=len(prompts.query("a")) + prompts.max_text_tokens + prompts.max_thought_tokens + 1,
            # queries begin with the same words, which small blocks hold more of
            enable_prefix_caching=True,
            block_size=32 if on_cpu else None,
            enforce_eager=on_cpu,
            disable_log_stats=True,
        )
        self._engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)

    async def check(self) -> None:
        await super().check()
        await self._engine.check_health()

    async def close(self) -> None:
        while self._running:
            await asyncio.sleep(0.01)
        await super().close()
        await asyncio.to_thread(self._engine.shutdown)
        del self._engine  # it would shut down once more when the interpreter ends, and fail

    async def _ask(self, text: EmbedRequest, search: Search | None) -> Answered:
        self._running += 1
        try:
            thought = None
            if text.is_query and self._checkpoint.prompts.reasoning:
                thought = await self._think([*text.prompt, self._checkpoint.prompts.tokens.think])
            return await self._batches.ask(Asked(text, thought, search))
        finally:
            self._running -= 1

    async def _think(self, prompt: list[int]) -> list[int]:
        """The thought, without control tokens, as ``think`` gives it."""
        from vllm import SamplingParams  # noqa: PLC0415 -- an extra
        from vllm.inputs import tokens_input  # noqa: PLC0415 -- as above
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415 -- as above

        prompts = self._checkpoint.prompts
        params = SamplingParams(
            max_tokens=prompts.max_thought_tokens,
            temperature=0.0,
            stop_token_ids=prompts.end_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        # to its end: a generator that is left early aborts its request
        answers = self._engine.generate(tokens_input(prompt), params, f"llmrec-{next(self._numbers)}")
        written = [list(answer.outputs[0].token_ids) async for answer in answers][-1]
        return prompts.closed(written)[1:-2]
