"""Requests and answers of the OpenAI-compatible routes."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from llmrec.serving.http.protocol import Positive, RuleFields, StrictModel

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
StopString = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(StrictModel):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(StrictModel):
    """Only text is written."""

    type: Literal["text"]


class GenerationFields(RuleFields):
    """What both routes take. The rules and the last three fields are llmrec's own: ``extra_body`` of the client."""

    model: str
    n: Positive | None = Field(None, description="Items, or texts, for each prompt; 1 where absent.")
    max_tokens: Positive | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="Of free text; a list has none.")
    top_p: float | None = Field(None, gt=0, le=1, description="Of free text; a list has none.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Of free text; a list needs none.")
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = Field(
        None, description="Ends free text; not part of it."
    )
    stream: bool | None = Field(None, description="Of free text only.")
    stream_options: StreamOptions | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = Field(None, description="Refused unless empty.")
    user: str | None = Field(None, description="Ignored.")
    num_beams: Positive | None = Field(None, description="Search width; the checkpoint's own, or n where n is more.")
    constrained: bool = Field(True, description="Answer with items of the catalogue; false writes free text.")
    use_beam_search: bool | None = Field(None, description="Lists are always searched with beams.")

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(GenerationFields):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="The model's own language: item tokens in it are item tokens."
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="Log-probabilities of the tokens of each item.")
    best_of: Positive | None = Field(None, description="Refused unless it is n: num_beams says how much is searched.")
    echo: bool | None = None
    suffix: str | None = None


class TextPart(StrictModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(StrictModel):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerationFields):
    """``POST /v1/chat/completions``. Fields from ``metadata`` on cannot change a list or a text and are ignored."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = Field(None, description="Log-probabilities of the tokens of each item.")
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: list[dict[str, Any]] | None = Field(None, description="Refused unless empty.")
    tool_choice: Literal["none", "auto"] | None = None
    functions: list[dict[str, Any]] | None = Field(None, description="Refused unless empty.")
    function_call: Literal["none", "auto"] | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage_of(prompts: Sequence[Sequence[int]], completion_tokens: int) -> Usage:
    """Token counts of an answer to ``prompts``, which are token ids."""
    read = sum(map(len, prompts))
    return Usage(prompt_tokens=read, completion_tokens=completion_tokens, total_tokens=read + completion_tokens)


class ItemFields(BaseModel):
    """What a choice says beside OpenAI's fields; null in free text."""

    item_id: str | None = None
    title: str | None = None
    score: float | None = None
    semantic_id: list[int] | None = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a choice's tokens; only the tokens themselves are listed, beams have no others."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(ItemFields):
    """An item, or a text."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: CompletionLogprobs | None = None


class Completion(BaseModel):
    """Answer of ``POST /v1/completions``; the choices of the first prompt come first, best first."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="Fingerprint of the catalogue.")
    choices: list[CompletionChoice]
    usage: Usage


class TopLogprob(BaseModel):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of a choice."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a choice's tokens."""

    content: list[TokenLogprob]


class ChatMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(ItemFields):
    """An item, or a text."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None = None


class ChatCompletion(BaseModel):
    """Answer of ``POST /v1/chat/completions``; best first."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="Fingerprint of the catalogue.")
    choices: list[ChatChoice]
    usage: Usage


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["llmrec"] = "llmrec"


class Models(BaseModel):
    """Answer of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[Model]
