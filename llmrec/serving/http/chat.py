"""``/v1/chat/completions`` and ``/v1/models``."""

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llmrec.serving.engines.engine import RankedList
from llmrec.serving.http.catalogs import ServedCatalog, code_text
from llmrec.serving.http.errors import error_responses
from llmrec.serving.http.free_text import Piece, stream_texts, text_requests, write_texts
from llmrec.serving.http.json_body import JsonRoute
from llmrec.serving.http.lists import GENERATION_RESPONSES, answer_head, item_choice, rank_prompts, token_log_probs
from llmrec.serving.http.openai_protocol import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    Model,
    Models,
    TokenLogprob,
    TopLogprob,
    usage_of,
)
from llmrec.serving.http.prompting import chat_tokens
from llmrec.serving.http.service import Service
from llmrec.serving.http.unsupported import check_chat


def chat_router(service: Service) -> APIRouter:
    """The route, over ``service``."""
    router = APIRouter(route_class=JsonRoute)

    @router.post(
        "/v1/chat/completions", response_model=ChatCompletion, responses=GENERATION_RESPONSES, summary="Answer a chat"
    )
    async def chat(body: ChatRequest, request: Request) -> ChatCompletion | Response:
        check_chat(service, body)
        served = service.catalogs.current
        prompt = await service.prepare(partial(chat_tokens, service.checkpoint, body.messages))
        service.check_prompt(prompt, "messages")
        head = answer_head(service, served, "chatcmpl")
        if body.constrained:
            (ranked,) = await rank_prompts(service, request, served, body, [prompt])
            choices = _item_choices(served, ranked, bool(body.logprobs))
            return ChatCompletion(
                **head, choices=choices, usage=usage_of([prompt], len(choices) * served.catalog.num_codebooks)
            )
        requests = text_requests(service, body, [prompt], None)
        if body.stream:
            return await stream_texts(service, request, requests, partial(_events, head, body, prompt))
        texts = await write_texts(service, request, requests)
        choices = [
            ChatChoice(index=index, message=ChatMessage(content=text.text), finish_reason=text.finish_reason)
            for index, text in enumerate(texts)
        ]
        return ChatCompletion(**head, choices=choices, usage=usage_of([prompt], sum(text.num_tokens for text in texts)))

    return router


def models_router(service: Service) -> APIRouter:
    """``/v1/models``, over ``service``."""
    router = APIRouter()
    model = Model(id=service.model_name, created=int(time.time()))

    @router.get("/v1/models", responses=error_responses(400, 401, 413), summary="The model served")
    async def models() -> Models:
        return Models(data=[model])

    @router.get("/v1/models/{model_id:path}", responses=error_responses(400, 401, 404, 413), summary="A model")
    async def one_model(model_id: str) -> Model:
        service.check_model(model_id)
        return model

    return router


def _item_choices(served: ServedCatalog, ranked: RankedList, with_logprobs: bool) -> list[ChatChoice]:
    choices = []
    for place in range(len(ranked.items)):
        item = item_choice(served, ranked, place)
        logprobs = _logprobs(token_log_probs(served, ranked, place)) if with_logprobs else None
        message = ChatMessage(content=code_text(item["semantic_id"]))
        choices.append(ChatChoice(**item, index=place, message=message, finish_reason="stop", logprobs=logprobs))
    return choices


def _logprobs(tokens: Sequence[tuple[str, float]]) -> ChatLogprobs:
    content = []
    for token, log_prob in tokens:
        top = TopLogprob(token=token, logprob=log_prob, bytes=list(token.encode()))
        content.append(TokenLogprob(**top.model_dump(), top_logprobs=[top]))
    return ChatLogprobs(content=content)


async def _events(
    head: dict[str, Any], body: ChatRequest, prompt: Sequence[int], pieces: AsyncIterator[Piece]
) -> AsyncIterator[dict[str, Any]]:
    head = {**head, "object": "chat.completion.chunk"}
    written = 0
    for index in range(body.n or 1):
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        yield {**head, "choices": [choice]}
    async for index, chunk in pieces:
        written += chunk.num_tokens
        delta = {"content": chunk.text} if chunk.text else {}
        yield {**head, "choices": [{"index": index, "delta": delta, "finish_reason": chunk.finish_reason}]}
    if body.wants_usage:
        yield {**head, "choices": [], "usage": usage_of([prompt], written).model_dump()}
