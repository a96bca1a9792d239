"""``/v1/recommendations``: histories in, ranked items out, for many users in one call."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request

from llmrec.serving.engines.engine import RankedList, RankRequest
from llmrec.serving.http.catalogs import ServedCatalog, code_text
from llmrec.serving.http.errors import ApiError, error_responses
from llmrec.serving.http.json_body import JsonRoute
from llmrec.serving.http.protocol import (
    RecommendationRequest,
    Recommendations,
    RecommendedItem,
    Trace,
    TraceBeam,
    UserHistory,
    UserRecommendations,
)
from llmrec.serving.http.rules import known_rows, search_rules, unknown_items
from llmrec.serving.http.service import Service

#: Users of one request whose beam trees are returned: each is hundreds of beams.
_MAX_TRACED = 8


@dataclass(frozen=True)
class _Asked:
    """A user's request, translated."""

    user_id: str | None
    ranking: RankRequest
    skipped: list[str]


def recommendations_router(service: Service) -> APIRouter:
    """The route, over ``service``."""
    router = APIRouter(route_class=JsonRoute)

    @router.post(
        "/v1/recommendations",
        response_model_exclude_none=True,
        responses=error_responses(400, 401, 404, 413, 422, 429),
        summary="Recommend items to users",
    )
    async def recommend(body: RecommendationRequest, request: Request) -> Recommendations:
        service.check_model(body.model)
        served = service.catalogs.current
        _check_users(service, body.users, body.trace)
        k, num_beams = service.list_size(body.k, body.num_beams, "k")
        asked = await service.prepare(lambda: _translate(service, served, body, k, num_beams))
        ranked = await service.rank(request, served, [one.ranking for one in asked])
        data = [_answer(served, one, answer) for one, answer in zip(asked, ranked, strict=True)]
        return Recommendations(model=service.model_name, catalog=served.catalog.fingerprint, data=data)

    return router


def recommended(served: ServedCatalog, ranked: RankedList) -> list[RecommendedItem]:
    """The items of a list, by name."""
    catalog = served.catalog
    return [
        RecommendedItem(
            item_id=catalog.item_ids[row], title=catalog.titles[row], score=score, semantic_id=served.semantic_id(row)
        )
        for row, score in zip(ranked.items, ranked.scores, strict=True)
    ]


def _check_users(service: Service, users: Sequence[UserHistory], trace: bool) -> None:
    settings = service.settings
    if trace and not service.checkpoint.catalog.num_codebooks:
        kind = "scores all items at once" if service.checkpoint.reads_items else "writes titles"
        raise ApiError(422, f"trace shows beams over semantic IDs, and this model {kind}. Leave it out.", "trace")
    if trace and len(users) > _MAX_TRACED:
        message = f"trace is for people to look at: users has {len(users)} entries; the limit is {_MAX_TRACED} with it."
        raise ApiError(422, message, "trace", "limit_exceeded")
    if len(users) > settings.max_users_per_request:
        message = f"users has {len(users)} entries; the limit is {settings.max_users_per_request} in one request."
        raise ApiError(422, message, "users", "limit_exceeded")
    for place, user in enumerate(users):
        if user.history is not None and user.history_titles is not None:
            message = f"users.{place} has history (item ids) and history_titles: send one of the two."
            raise ApiError(422, message, f"users.{place}")
        if user.history is None and user.history_titles is None and not _is_known(service, user):
            message = f"users.{place} needs history (item ids) or history_titles, one of the two."
            raise ApiError(422, message, f"users.{place}")
        length = len(user.history if user.history is not None else user.history_titles or [])
        if length > settings.max_history_items:
            message = f"users.{place} has a history of {length} items; the limit is {settings.max_history_items}. "
            raise ApiError(422, message + "Send the latest ones.", f"users.{place}", "limit_exceeded")


def _is_known(service: Service, user: UserHistory) -> bool:
    """Whether the model knows this user without a history."""
    users = service.checkpoint.users
    return users is not None and user.user_id is not None and user.user_id in users


def _translate(
    service: Service, served: ServedCatalog, body: RecommendationRequest, k: int, num_beams: int
) -> list[_Asked]:
    """Prompts and rules of all users; nothing is queued if one of them is refused."""
    titles = served.rows_of_titles(title for user in body.users for title in user.history_titles or ())
    asked = []
    for place, user in enumerate(body.users):
        skipped: list[str] = []
        unknown = skipped if body.unknown_items == "skip" else None
        if user.history is not None:
            rows = known_rows(served, user.history, f"users.{place}.history", unknown)
        else:
            rows = _rows_of_titles(served, user.history_titles or [], titles, f"users.{place}.history_titles", unknown)
        fields = user.rules or body
        rules = search_rules(served, fields, rows if body.exclude_seen else [], unknown)
        item_ids = [served.catalog.item_ids[row] for row in rows]
        # from ids to tokens without any text between: what a title spells can't become an item
        prompt = served.loaded.prompt_tokens(item_ids, user.user_id)
        service.check_prompt(prompt, f"the prompt of users.{place}")
        ranking = RankRequest(prompt, num_beams, k, rules, fields.max_per_first_code, body.trace, rows)
        asked.append(_Asked(user.user_id, ranking, skipped))
    return asked


def _rows_of_titles(
    served: ServedCatalog, titles: Sequence[str], rows: dict[str, list[int]], name: str, skipped: list[str] | None
) -> list[int]:
    unknown = [title for title in titles if title not in rows]
    if unknown and skipped is None:
        raise unknown_items(unknown, name, "titles")
    if skipped is not None:
        skipped += unknown
    shared = next((title for title in titles if len(rows.get(title, ())) > 1), None)
    if shared is not None:
        item_ids = ", ".join(repr(served.catalog.item_ids[row]) for row in rows[shared][:10])
        message = f"{name} holds {shared[:100]!r}, the title of {len(rows[shared])} items: {item_ids}. Send their ids."
        raise ApiError(422, message, name, "ambiguous_title")
    return [rows[title][0] for title in titles if title in rows]


def _answer(served: ServedCatalog, asked: _Asked, ranked: RankedList) -> UserRecommendations:
    trace = None
    if ranked.levels is not None:
        levels = [
            [
                TraceBeam(
                    codes=list(beam.codes),
                    text=code_text(beam.codes),
                    log_prob=beam.log_prob,
                    score=beam.score,
                    survives=beam.survives,
                    num_items=beam.num_items,
                )
                for beam in level
            ]
            for level in ranked.levels
        ]
        trace = Trace(levels=levels)
    return UserRecommendations(
        user_id=asked.user_id, items=recommended(served, ranked), skipped=asked.skipped, trace=trace
    )
