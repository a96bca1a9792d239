"""Free text from a transformers model, piece by piece, for a coroutine that may stop listening."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from llmrec.serving.engines.engine import TextChunk, TextRequest


class TextGeneration(BaseStreamer, StoppingCriteria):
    """One text: written in a thread, read in an event loop.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        request: what to write.

    Raises:
        ValueError: if prompt and text together do not fit into the model's positions.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: TextRequest) -> None:
        positions = None if model.config.is_encoder_decoder else getattr(model.config, "max_position_embeddings", None)
        if positions is not None:
            request.check_room(positions)
        self._model, self._tokenizer, self._request = model, tokenizer, request
        self._stop = threading.Event()
        self._tokens: list[int] = []
        self._sent_text = ""
        self._sent_tokens = 0
        self._prompt_seen = False
        self._chunks: asyncio.Queue[TextChunk | Exception] = asyncio.Queue()
        self._event_loop = asyncio.get_running_loop()

    async def run(self, executor: Executor) -> AsyncGenerator[TextChunk, None]:
        """Pieces as they are written; the last one has a finish reason."""
        work = self._event_loop.run_in_executor(executor, self._write)
        try:
            while True:
                chunk = await self._chunks.get()
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._stop.set()
            await asyncio.shield(work)

    def _write(self) -> None:
        if self._stop.is_set():
            return
        try:
            self._generate()
            text, stopped = self._text()
            ended = bool(self._tokens) and self._tokens[-1] in self._eos_token_ids()
            self._send(_whole(text), "stop" if stopped or ended or self._stop.is_set() else "length")
        except Exception as error:  # whatever it is, the reader must not wait for ever
            self._put(error)

    @torch.no_grad()
    def _generate(self) -> None:
        request, config = self._request, self._model.generation_config
        sampled = request.temperature > 0
        pad = config.pad_token_id
        generation = GenerationConfig(
            max_new_tokens=request.max_tokens,
            do_sample=sampled,
            temperature=request.temperature if sampled else None,
            top_p=request.top_p if sampled else None,
            top_k=0 if sampled else None,
            eos_token_id=config.eos_token_id,
            pad_token_id=next(iter(self._eos_token_ids()), 0) if pad is None else pad,
            bos_token_id=config.bos_token_id,
            decoder_start_token_id=config.decoder_start_token_id,
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        input_ids = torch.tensor([list(request.prompt)], device=self._model.device)
        with torch.random.fork_rng(devices=devices, enabled=request.seed is not None):
            if request.seed is not None:
                torch.manual_seed(request.seed)
            self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=generation,
                streamer=self,
                stopping_criteria=StoppingCriteriaList([self]),
            )

    def _eos_token_ids(self) -> set[int]:
        eos = self._model.generation_config.eos_token_id
        return set(eos) if isinstance(eos, list) else set() if eos is None else {eos}

    def put(self, value: torch.Tensor) -> None:
        """Called by ``generate``: once with the prompt, then with each token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._tokens += value.flatten().tolist()
        text, stopped = self._text()
        if stopped:
            self._stop.set()
            return
        # what may be the start of a stop string, or of a character in several tokens, waits
        held = max((_overlap(text, stop) for stop in self._request.stop), default=0)
        ready = _whole(text[: len(text) - held])
        if len(ready) > len(self._sent_text):
            self._send(ready, None)

    def end(self) -> None:
        """Called by ``generate`` after the last token; ``_write`` sends the rest."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG002
        """Stopping criterion: the reader has gone, or a stop string was written."""
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)

    def _text(self) -> tuple[str, bool]:
        """What is written so far, up to the first stop string; whether there is one."""
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        places = [place for stop in self._request.stop if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _send(self, text: str, finish_reason: Any) -> None:
        self._put(TextChunk(text[len(self._sent_text) :], len(self._tokens) - self._sent_tokens, finish_reason))
        self._sent_text, self._sent_tokens = text, len(self._tokens)

    def _put(self, chunk: TextChunk | Exception) -> None:
        self._event_loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` starts with."""
    return next((size for size in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def _whole(text: str) -> str:
    """``text`` without a character at its end of which only some bytes are written."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")
