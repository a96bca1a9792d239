"""``/v1/search`` and ``/v1/embeddings`` of an LREM checkpoint: texts in; items, or vectors, out."""

import base64
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from fastapi import APIRouter, Request

from llmrec.decoding.rules import Rules
from llmrec.serving.engines.engine import Embedded, EmbeddingEngine, EmbedRequest, RankedList, RankRequest
from llmrec.serving.http.catalogs import ServedCatalog
from llmrec.serving.http.errors import ApiError, error_responses
from llmrec.serving.http.json_body import JsonRoute
from llmrec.serving.http.openai_protocol import usage_of
from llmrec.serving.http.rules import unknown_items
from llmrec.serving.http.search_protocol import (
    Embedding,
    EmbeddingRequest,
    Embeddings,
    FoundItem,
    QueryResults,
    SearchRequest,
    SearchResults,
)
from llmrec.serving.http.service import Service, all_of, until_disconnect
from llmrec.serving.http.telemetry import RequestRecord
from llmrec.serving.lrem_checkpoint import ServedLrem

_RESPONSES = error_responses(400, 401, 404, 413, 422, 429)


def search_router(service: Service, checkpoint: ServedLrem, engine: EmbeddingEngine) -> APIRouter:
    """Both routes, over ``service``, whose checkpoint and engine these are."""
    router = APIRouter(route_class=JsonRoute)
    prompts = checkpoint.prompts

    @router.post("/v1/search", response_model_exclude_none=True, responses=_RESPONSES, summary="Search for queries")
    async def search(body: SearchRequest, request: Request) -> SearchResults:
        service.check_model(body.model)
        served = service.catalogs.current
        queries = [body.query] if isinstance(body.query, str) else body.query
        _check_texts(service, queries, "query")
        if body.k > service.settings.max_k:
            message = f"k is {body.k}; the limit is {service.settings.max_k}."
            raise ApiError(422, message, "k", "limit_exceeded")
        rules = Rules(_excluded(served, body.exclude))
        asked, cut = await service.prepare(partial(_tokens, checkpoint, prompts.query, queries))
        ranked = await service.rank(request, served, [RankRequest(prompt, 1, body.k, rules) for prompt in asked])
        data = [
            QueryResults(
                items=_found(served, answer),
                truncated=is_cut,
                keywords=prompts.keywords(answer.thought or []) if body.return_keywords else None,
            )
            for answer, is_cut in zip(ranked, cut, strict=True)
        ]
        return SearchResults(model=service.model_name, catalog=served.catalog.fingerprint, data=data)

    @router.post("/v1/embeddings", response_model_exclude_none=True, responses=_RESPONSES, summary="Embed texts")
    async def embed(body: EmbeddingRequest, request: Request) -> Embeddings:
        service.check_model(body.model)
        texts = _texts(body)
        _check_texts(service, texts, "input")
        if body.dimensions not in (None, checkpoint.width):
            message = f"dimensions is {body.dimensions}; this model's embeddings have {checkpoint.width}. Leave it out."
            raise ApiError(422, message, "dimensions", "unsupported_value")
        is_query = body.input_type == "query"
        to_tokens = prompts.query if is_query else prompts.item
        asked, cut = await service.prepare(partial(_tokens, checkpoint, to_tokens, texts))
        answers = await _embed(service, engine, request, [EmbedRequest(prompt, is_query) for prompt in asked])
        data = [
            Embedding(
                index=index,
                embedding=_encoded(answer.vector, body.encoding_format),
                truncated=is_cut,
                keywords=prompts.keywords(answer.thought) if body.return_keywords else None,
            )
            for index, (answer, is_cut) in enumerate(zip(answers, cut, strict=True))
        ]
        written = sum(len(answer.thought) for answer in answers)
        return Embeddings(model=service.model_name, data=data, usage=usage_of(asked, written))

    return router


def refusing_router() -> APIRouter:
    """The routes of other methods, each with the reason why it is not one here."""
    router = APIRouter()

    @router.post("/v1/recommendations", include_in_schema=False)
    @router.post("/v1/completions", include_in_schema=False)
    @router.post("/v1/chat/completions", include_in_schema=False)
    def refuse() -> None:
        message = (
            "This model searches for queries; it neither recommends nor writes. Ask /v1/search, or /v1/embeddings."
        )
        raise ApiError(422, message, "model", "search_only")

    return router


def _texts(body: EmbeddingRequest) -> list[str]:
    """The texts of a request.

    Raises:
        ApiError: 422, if they are token ids.
    """
    given = [body.input] if isinstance(body.input, str) else body.input
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        # ids could hold control tokens, and would be of another tokenizer most of the time
        raise ApiError(422, "input holds token ids; this model embeds texts. Send strings.", "input")
    return texts


def _check_texts(service: Service, texts: Sequence[str], name: str) -> None:
    """Refuse too many texts, and blank ones.

    Raises:
        ApiError: 422 for their number, 400 for a blank one.
    """
    limit = service.settings.max_users_per_request
    if not 0 < len(texts) <= limit:
        raise ApiError(422, f"{name} holds {len(texts)} texts; 1 to {limit} are allowed.", name)
    for place, text in enumerate(texts):
        if not text.strip():
            named = name if len(texts) == 1 else f"{name}.{place}"
            message = f"{named} is empty: it needs a character or more that is no blank."
            raise ApiError(400, message, named, "empty_text")


def _excluded(served: ServedCatalog, item_ids: Sequence[str]) -> list[int]:
    """Rows of the items to leave out.

    Raises:
        ApiError: 422, if the catalogue lacks one.
    """
    index = served.catalog.item_index
    unknown = [item_id for item_id in item_ids if item_id not in index]
    if unknown:
        raise unknown_items(unknown, "exclude", "ids", can_skip=False)
    return [index[item_id] for item_id in item_ids]


def _tokens(
    checkpoint: ServedLrem, to_tokens: Callable[[str], list[int]], texts: Sequence[str]
) -> tuple[list[list[int]], list[bool]]:
    """Token ids of each text, and whether it was cut."""
    plain = [" ".join(text.split()) for text in texts]
    return [to_tokens(text) for text in plain], [checkpoint.is_cut(text) for text in plain]


async def _embed(
    service: Service, engine: EmbeddingEngine, http: Request, requests: Sequence[EmbedRequest]
) -> list[Embedded]:
    """Embed all texts of one HTTP request, at the same time.

    Raises:
        ApiError: 429 where the queue is full, 499 where the client has gone.
    """
    record: RequestRecord = http.state.record
    record.lists = len(requests)
    with service.queue.places(len(requests)):
        answers = await until_disconnect(http, all_of(engine.embed(request) for request in requests))
    service.telemetry.embeddings.inc(len(answers))
    read, written = sum(len(request.prompt) for request in requests), sum(len(answer.thought) for answer in answers)
    service.telemetry.count_tokens(read, written)
    return answers


def _found(served: ServedCatalog, ranked: RankedList) -> list[FoundItem]:
    catalog = served.catalog
    return [
        FoundItem(item_id=catalog.item_ids[row], title=catalog.titles[row], score=score)
        for row, score in zip(ranked.items, ranked.scores, strict=True)
    ]


def _encoded(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
