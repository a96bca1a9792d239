"""What the two OpenAI routes share: the frame of an answer, and raw prompts to lists."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, TypedDict

from fastapi import Request

from llmrec.serving.engines.engine import RankedList, RankRequest
from llmrec.serving.http.catalogs import ServedCatalog
from llmrec.serving.http.errors import error_responses
from llmrec.serving.http.openai_protocol import GenerationFields
from llmrec.serving.http.rules import search_rules
from llmrec.serving.http.service import Service
from llmrec.vocabulary import code_token

#: What the two routes may answer, for the OpenAPI document.
GENERATION_RESPONSES = error_responses(400, 401, 404, 413, 422, 429) | {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


class ItemChoice(TypedDict):
    """Fields of a choice that name its item."""

    item_id: str
    title: str
    score: float
    semantic_id: list[int]


def answer_head(service: Service, served: ServedCatalog, kind: str) -> dict[str, Any]:
    """The fields that every answer opens with; ``kind`` begins its id."""
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.model_name,
        "system_fingerprint": served.catalog.fingerprint,
    }


async def rank_prompts(
    service: Service,
    http: Request,
    served: ServedCatalog,
    body: GenerationFields,
    prompts: Sequence[Sequence[int]],
) -> list[RankedList]:
    """A list for each prompt, under the rules of the request.

    Raises:
        ApiError: where a limit is passed, a rule names what there is not, or the queue is full.
    """
    k, num_beams = service.list_size(body.n or 1, body.num_beams, "n")
    rules = await service.prepare(lambda: search_rules(served, body, (), None))
    # as where the history is named: what is mixed into the ranking reads the items that the prompt spells
    trie = served.loaded.trie if served.catalog.num_codebooks else None
    histories = [() if trie is None else trie.spelt_items(prompt) for prompt in prompts]
    requests = [
        RankRequest(prompt, num_beams, k, rules, body.max_per_first_code, history=history)
        for prompt, history in zip(prompts, histories, strict=True)
    ]
    return await service.rank(http, served, requests)


def item_choice(served: ServedCatalog, ranked: RankedList, place: int) -> ItemChoice:
    """The item at ``place`` of a list."""
    row = ranked.items[place]
    return {
        "item_id": served.catalog.item_ids[row],
        "title": served.catalog.titles[row],
        "score": ranked.scores[place],
        "semantic_id": served.semantic_id(row),
    }


def token_log_probs(served: ServedCatalog, ranked: RankedList, place: int) -> list[tuple[str, float]]:
    """The tokens of the item at ``place`` of a list, and the log-probability of each."""
    codes = served.semantic_id(ranked.items[place])
    tokens = [code_token(level, code) for level, code in enumerate(codes)]
    return list(zip(tokens, ranked.code_log_probs[place], strict=True))
