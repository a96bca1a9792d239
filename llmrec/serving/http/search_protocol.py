"""Requests and answers of the routes that an LREM checkpoint has: OpenAI's embeddings, and search."""

from typing import Literal

from pydantic import BaseModel, Field

from llmrec.serving.http.openai_protocol import TokenId, Usage
from llmrec.serving.http.protocol import Positive, StrictModel


class EmbeddingRequest(StrictModel):
    """``POST /v1/embeddings``. The last two fields are llmrec's own: ``extra_body`` of the client."""

    input: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="A text, or several; token ids are refused."
    )
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Positive | None = Field(None, description="Refused unless it is the model's width.")
    user: str | None = Field(None, description="Ignored.")
    input_type: Literal["query", "item"] = Field("query", description="The model thinks before it embeds a query.")
    return_keywords: bool = Field(False, description="Return what the model thought, too.")


class Embedding(BaseModel):
    """The embedding of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Of length 1; base64 of little-endian float32 where asked for.")
    truncated: bool = Field(description="Whether the end of the text was left out.")
    keywords: str | None = Field(None, description="What the model thought, where asked for.")


class Embeddings(BaseModel):
    """Answer of ``POST /v1/embeddings``; texts in the order of the request."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


class SearchRequest(StrictModel):
    """``POST /v1/search``."""

    model: str | None = Field(None, description="The served model; may be left out.")
    query: str | list[str] = Field(description="A query, or several.")
    k: Positive = Field(10, description="List length.")
    exclude: list[str] = Field([], description="Item ids that must not be returned.")
    return_keywords: bool = Field(False, description="Return what the model thought, too.")


class FoundItem(BaseModel):
    """An item of a list."""

    item_id: str
    title: str
    score: float = Field(description="Cosine of the query's embedding and the item's.")


class QueryResults(BaseModel):
    """The list of one query, best first."""

    items: list[FoundItem]
    truncated: bool = Field(description="Whether the end of the query was left out.")
    keywords: str | None = Field(None, description="What the model thought, where asked for.")


class SearchResults(BaseModel):
    """Answer of ``POST /v1/search``; queries in the order of the request."""

    object: Literal["list"] = "list"
    model: str
    catalog: str = Field(description="Fingerprint of the catalogue that all of it comes from.")
    data: list[QueryResults]
