"""OpenAI fields that would be silently wrong here: refused, each with its reason."""

from llmrec.serving.http.errors import ApiError
from llmrec.serving.http.openai_protocol import ChatRequest, CompletionRequest, GenerationFields
from llmrec.serving.http.service import Service


def check_completion(service: Service, body: CompletionRequest) -> None:
    """Refuse what ``/v1/completions`` can't honour.

    Raises:
        ApiError: 422, 404 for another model.
    """
    _check(service, body)
    if body.best_of not in (None, body.n or 1):
        _refuse("best_of", "num_beams says how much is searched, and n how much of it is returned")
    if body.echo:
        _refuse("echo", "the prompt does not come back")
    if body.suffix:
        _refuse("suffix", "nothing is inserted before a text")
    if not body.constrained and body.logprobs is not None:
        _refuse("logprobs", "free text comes without log-probabilities")


def check_chat(service: Service, body: ChatRequest) -> None:
    """Refuse what ``/v1/chat/completions`` can't honour.

    Raises:
        ApiError: 422, 404 for another model.
    """
    _check(service, body)
    if body.tools or body.functions:
        _refuse("tools" if body.tools else "functions", "the model calls none")
    if body.top_logprobs and not body.logprobs:
        _refuse("top_logprobs", "it needs logprobs: true")
    if not body.constrained and body.logprobs:
        _refuse("logprobs", "free text comes without log-probabilities")


def token_limit(body: GenerationFields) -> int | None:
    """What the request says of the length of a text, under either name."""
    newer = body.max_completion_tokens if isinstance(body, ChatRequest) else None
    return body.max_tokens if newer is None else newer


def _check(service: Service, body: GenerationFields) -> None:
    service.check_model(body.model)
    service.check_language()
    if body.logit_bias:
        _refuse("logit_bias", "the catalogue decides which tokens may follow; exclude and allow choose among items")
    if body.stream_options is not None and not body.stream:
        _refuse("stream_options", "it needs stream: true")
    if body.constrained:
        _check_constrained(service, body)
    else:
        _check_free_text(body)


def _check_constrained(service: Service, body: GenerationFields) -> None:
    if body.stream:
        reason = "beams have no order before the last step; stream: false answers with the list, constrained: false "
        _refuse("stream", reason + "writes free text that can be streamed")
    if body.use_beam_search is False:
        _refuse("use_beam_search", "a list is always searched with beams; constrained: false writes free text")
    limit, depth = token_limit(body), service.checkpoint.catalog.num_codebooks
    if limit is not None and limit < depth:
        raise ApiError(422, f"max_tokens is {limit}; an item takes {depth} tokens.", "max_tokens")


def _check_free_text(body: GenerationFields) -> None:
    if body.use_beam_search:
        _refuse("use_beam_search", "free text is sampled; leave constrained out for a list of items")
    for name in ("num_beams", "allow", "max_per_first_code", "exclude", "require_prefix", "forbid_prefixes"):
        if getattr(body, name) not in (None, []):
            _refuse(name, "it rules lists of items, and constrained: false asks for free text")
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(body, name):
            _refuse(name, "free text has no penalties")


def _refuse(name: str, reason: str) -> None:
    raise ApiError(422, f"{name} is not supported: {reason}.", name, "unsupported_value")
