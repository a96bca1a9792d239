"""Raw prompts and messages to token ids: the model's own language, in which item tokens are item tokens."""

from collections.abc import Sequence

from jinja2.exceptions import TemplateError

from llmrec.serving.checkpoint import Served
from llmrec.serving.http.errors import ApiError
from llmrec.serving.http.openai_protocol import Message


def split_prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> Sequence[str | Sequence[int]]:
    """The prompts that a request's field holds: text or token ids each; none where it is empty."""
    if isinstance(prompt, str):
        return [prompt]
    token_ids = [part for part in prompt if isinstance(part, int)]
    return [token_ids] if token_ids else [part for part in prompt if not isinstance(part, int)]


def prompt_tokens(checkpoint: Served, prompt: str | Sequence[int]) -> list[int]:
    """Token ids of one prompt; an encoder's input ends with the end token, as in training.

    Raises:
        ApiError: 422, if a token id is not one of the tokenizer's.
    """
    tokenizer = checkpoint.tokenizer
    if isinstance(prompt, str):
        tokens = list(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
    else:
        tokens = list(prompt)
        if tokens and max(tokens) >= len(tokenizer):
            message = f"prompt holds the token id {max(tokens)}; the tokenizer has 0 to {len(tokenizer) - 1}."
            raise ApiError(422, message, "prompt")
    ends = bool(tokens) and tokens[-1] == tokenizer.eos_token_id
    if checkpoint.is_encoder_decoder and tokens and not ends:
        tokens.append(tokenizer.eos_token_id)
    return tokens


def chat_tokens(checkpoint: Served, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat: by the tokenizer's template, or the contents on lines of their own where it has none.

    Raises:
        ApiError: 422, if the template refuses the messages.
    """
    if not checkpoint.tokenizer.chat_template:
        return prompt_tokens(checkpoint, "\n".join(message.text for message in messages))
    turns = [{"role": message.role, "content": message.text} for message in messages]
    try:
        text = checkpoint.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        message = f"The model's chat template refuses the messages: {error}"
        raise ApiError(422, message, "messages") from error
    return prompt_tokens(checkpoint, str(text))
