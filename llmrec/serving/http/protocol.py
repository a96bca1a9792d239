"""Requests and answers of llmrec's own routes. Nothing is coerced: true is no number, and NaN is refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Code = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]

#: Each forbidden prefix is looked up alone.
_MAX_PREFIXES = 1000


class StrictModel(BaseModel):
    """Base of everything that clients send."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class RuleFields(StrictModel):
    """What may be recommended. All that is given holds at once."""

    exclude: list[str] = Field([], description="Item ids that must not be returned.")
    allow: list[str] | None = Field(None, description="Item ids; nothing else is returned.")
    require_prefix: list[Code] = Field([], description="Codes that the semantic ID must start with.")
    forbid_prefixes: list[list[Code]] = Field(
        [], max_length=_MAX_PREFIXES, description="Lists of codes that the semantic ID must not start with."
    )
    max_per_first_code: Positive | None = Field(
        None, description="At most so many items whose semantic IDs start with the same code."
    )


class UserHistory(StrictModel):
    """One user: a history as item ids or as titles, oldest first."""

    user_id: str | None = Field(None, description="Comes back in the answer; a model of ULMRec knows its users by it.")
    history: list[str] | None = Field(None, description="Item ids.")
    history_titles: list[str] | None = Field(None, description="Exact titles, in place of history.")
    rules: RuleFields | None = Field(None, description="Take the place of the request's rules for this user.")


class RecommendationRequest(RuleFields):
    """``POST /v1/recommendations``."""

    model: str | None = Field(None, description="The served model; may be left out.")
    users: list[UserHistory] = Field(min_length=1)
    k: Positive = Field(10, description="List length.")
    num_beams: Positive | None = Field(None, description="Search width; the checkpoint's own, or k where k is more.")
    exclude_seen: bool = Field(True, description="Leave out the whole history given.")
    unknown_items: Literal["refuse", "skip"] = Field(
        "refuse", description="Items that the catalogue lacks: refuse the request, or skip and list them."
    )
    trace: bool = Field(False, description="Return the beam tree too.")


class ReloadRequest(StrictModel):
    """``POST /v1/catalog/reload``."""

    folder: str | None = Field(
        None, min_length=1, description="Folder on the server that holds a catalogue; the checkpoint's where absent."
    )


class RecommendedItem(BaseModel):
    """An item of a list."""

    item_id: str
    title: str
    score: float = Field(
        description="Log-probability of the semantic ID, of the mixture where item-kNN is mixed in; the model's own "
        "score where there is none."
    )
    semantic_id: list[int] = Field(description="Empty where the model's items have none.")


class TraceBeam(BaseModel):
    """A prefix that the search looked at."""

    codes: list[int]
    text: str
    log_prob: float = Field(description="Of the last code after those before it.")
    score: float = Field(description="Log-probability of the prefix, of the mixture where item-kNN is mixed in.")
    survives: bool
    num_items: int = Field(description="Items of the catalogue under the prefix, rules aside.")


class Trace(BaseModel):
    """The beam tree, level by level."""

    levels: list[list[TraceBeam]]


class UserRecommendations(BaseModel):
    """The list of one user, best first."""

    user_id: str | None = None
    items: list[RecommendedItem]
    skipped: list[str] = Field(description="Ids or titles that the catalogue lacks.")
    trace: Trace | None = None


class Recommendations(BaseModel):
    """Answer of ``POST /v1/recommendations``; users in the order of the request."""

    object: Literal["list"] = "list"
    model: str
    catalog: str = Field(description="Fingerprint of the catalogue that all of it comes from.")
    data: list[UserRecommendations]


class Item(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str
    semantic_id: list[int]
    text: str = Field(description="The item's tokens, which name it in a raw prompt.")


class Items(BaseModel):
    """Answer of ``GET /v1/items``."""

    object: Literal["list"] = "list"
    catalog: str
    data: list[Item]


class CatalogState(BaseModel):
    """Answer of ``GET /v1/catalog``."""

    object: Literal["catalog"] = "catalog"
    catalog: str
    num_items: int
    num_codebooks: int
    codebook_sizes: list[int]
    previous: str | None = Field(description="What a rollback would bring back.")


class CatalogChange(CatalogState):
    """Answer of a reload or rollback: the catalogue served from now on, and what changed."""

    added: int
    removed: int


class Health(BaseModel):
    """Answer of ``GET /health``."""

    status: Literal["ok"] = "ok"
