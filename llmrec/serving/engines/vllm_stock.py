"""vLLM's stock beam search under our logits processor: constrained and correct, and there to be compared with."""

import math
from itertools import count
from typing import cast

import numpy as np
from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
from vllm.inputs import tokens_input
from vllm.logprobs import Logprob
from vllm.sampling_params import BeamSearchParams
from vllm.v1.engine.async_llm import AsyncLLM

from llmrec.catalog import Catalog
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.serving.engines.engine import RankedList, RankRequest


class StockBeams(BeamSearchOnlineMixin):
    """The stock loop over an engine that has ``CatalogLogitsProcessor``.

    The loop goes on with beams that ran out of continuations, at a score of -inf: they are dropped here. It has no room
    for rules, for a trace, or for another catalogue than the engine's own.

    Args:
        engine: to run on.
    """

    def __init__(self, engine: AsyncLLM) -> None:
        self.engine_client = engine
        self.renderer = engine.renderer
        self._numbers = count()

    async def rank(self, catalog: Catalog, trie: DeviceTrie, request: RankRequest) -> RankedList:
        """As ``Engine.rank``.

        Raises:
            ValueError: if the request has rules or asks for a trace.
        """
        if request.rules or request.max_per_first_code is not None or request.trace:
            raise ValueError(
                "Stock beams take no rules and give no trace: send exclude_seen false and no exclude, allow, prefixes, "
                "max_per_first_code or trace, or start the server with --beam_search llmrec."
            )
        params = BeamSearchParams(beam_width=request.num_beams, max_tokens=catalog.num_codebooks, ignore_eos=True)
        items: list[int] = []
        scores: list[float] = []
        code_log_probs: list[list[float]] = []
        number = f"stock-{next(self._numbers)}"
        async for output in self.beam_search(tokens_input(list(request.prompt)), number, params):
            for beam in output.outputs[: request.k]:
                steps = cast(list[dict[int, Logprob]], beam.logprobs)
                log_probs = [step[token].logprob for step, token in zip(steps, beam.token_ids, strict=True)]
                if len(log_probs) < catalog.num_codebooks or min(log_probs) == -math.inf:
                    continue
                codes = [int(trie.token_codes[depth, token]) for depth, token in enumerate(beam.token_ids)]
                place, _ = trie.trie.item_range(trie.trie.walk(np.array([codes])))
                items.append(int(trie.trie.items[place[0]]))
                scores.append(sum(log_probs))
                code_log_probs.append(log_probs)
        return RankedList(items, scores, code_log_probs)
