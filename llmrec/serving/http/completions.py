"""``/v1/completions``: items, or free text, after raw prompts."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llmrec.serving.engines.engine import RankedList, TextRequest
from llmrec.serving.http.catalogs import ServedCatalog, code_text
from llmrec.serving.http.errors import ApiError
from llmrec.serving.http.free_text import Piece, stream_texts, text_requests, write_texts
from llmrec.serving.http.json_body import JsonRoute
from llmrec.serving.http.lists import GENERATION_RESPONSES, answer_head, item_choice, rank_prompts, token_log_probs
from llmrec.serving.http.openai_protocol import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    usage_of,
)
from llmrec.serving.http.prompting import prompt_tokens, split_prompts
from llmrec.serving.http.service import Service
from llmrec.serving.http.unsupported import check_completion

#: As OpenAI's route, where max_tokens is absent.
_DEFAULT_TOKENS = 16


def completions_router(service: Service) -> APIRouter:
    """The route, over ``service``."""
    router = APIRouter(route_class=JsonRoute)

    @router.post(
        "/v1/completions", response_model=Completion, responses=GENERATION_RESPONSES, summary="Complete prompts"
    )
    async def complete(body: CompletionRequest, request: Request) -> Completion | Response:
        check_completion(service, body)
        served = service.catalogs.current
        prompts = await service.prepare(partial(_tokens, service, body))
        head = answer_head(service, served, "cmpl")
        if body.constrained:
            ranked = await rank_prompts(service, request, served, body, prompts)
            choices = _item_choices(served, ranked, body.logprobs is not None)
            written = len(choices) * served.catalog.num_codebooks
            return Completion(**head, choices=choices, usage=usage_of(prompts, written))
        requests = text_requests(service, body, prompts, _DEFAULT_TOKENS)
        if body.stream:
            return await stream_texts(service, request, requests, partial(_events, head, body, prompts))
        return await _write(service, request, requests, head, prompts)

    return router


async def _write(
    service: Service,
    request: Request,
    requests: Sequence[TextRequest],
    head: dict[str, Any],
    prompts: Sequence[Sequence[int]],
) -> Completion:
    texts = await write_texts(service, request, requests)
    choices = [
        CompletionChoice(index=index, text=text.text, finish_reason=text.finish_reason)
        for index, text in enumerate(texts)
    ]
    return Completion(**head, choices=choices, usage=usage_of(prompts, sum(text.num_tokens for text in texts)))


def _tokens(service: Service, body: CompletionRequest) -> list[list[int]]:
    prompts = split_prompts(body.prompt)
    limit = service.settings.max_users_per_request
    if not 0 < len(prompts) <= limit:
        raise ApiError(422, f"prompt holds {len(prompts)} prompts; 1 to {limit} are allowed.", "prompt")
    tokens = [prompt_tokens(service.checkpoint, prompt) for prompt in prompts]
    for prompt in tokens:
        service.check_prompt(prompt, "prompt")
    return tokens


def _item_choices(served: ServedCatalog, ranked: Sequence[RankedList], with_logprobs: bool) -> list[CompletionChoice]:
    places = [(answer, place) for answer in ranked for place in range(len(answer.items))]
    choices = []
    for index, (answer, place) in enumerate(places):
        item = item_choice(served, answer, place)
        logprobs = _logprobs(token_log_probs(served, answer, place)) if with_logprobs else None
        text = code_text(item["semantic_id"])
        choices.append(CompletionChoice(**item, index=index, text=text, finish_reason="stop", logprobs=logprobs))
    return choices


def _logprobs(tokens: Sequence[tuple[str, float]]) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=[token for token, _ in tokens],
        token_logprobs=[log_prob for _, log_prob in tokens],
        top_logprobs=[{token: log_prob} for token, log_prob in tokens],
        text_offset=list(accumulate((len(token) for token, _ in tokens[:-1]), initial=0)),
    )


async def _events(
    head: dict[str, Any], body: CompletionRequest, prompts: Sequence[Sequence[int]], pieces: AsyncIterator[Piece]
) -> AsyncIterator[dict[str, Any]]:
    head = {**head, "object": "text_completion"}
    written = 0
    async for index, chunk in pieces:
        written += chunk.num_tokens
        choice = {"index": index, "text": chunk.text, "logprobs": None, "finish_reason": chunk.finish_reason}
        yield {**head, "choices": [choice]}
    if body.wants_usage:
        yield {**head, "choices": [], "usage": usage_of(prompts, written).model_dump()}
