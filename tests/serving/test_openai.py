"""OpenAI's own client, unmodified, against a served catalogue."""

import openai
import pytest

from llmrec.serving.checkpoint import open_served
from llmrec.serving.http.catalogs import code_text
from llmrec.serving.http.openai_protocol import Message
from llmrec.serving.http.prompting import chat_tokens, prompt_tokens
from tests.serving.conftest import save_tiny_checkpoint
from tests.serving.running import ToldEngine, running


@pytest.fixture(scope="module")
def http(checkpoint):
    with running(checkpoint) as client:
        yield client


@pytest.fixture(scope="module")
def client(http):
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def prompt(catalog):
    return "History:\n" + "".join(code_text(catalog.semantic_ids[row]) for row in (4, 9, 2))


def ids(answer):
    return [choice.item_id for choice in answer.choices]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.models.retrieve("other/model")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="a")


def test_a_raw_prompt_with_item_tokens_gives_the_list_of_that_history(client, http, catalog, prompt):
    answer = client.completions.create(model="tiny", prompt=prompt, n=10)
    body = {"users": [{"history": ["4", "9", "2"]}], "exclude_seen": False}
    listed = http.post("/v1/recommendations", json=body).json()["data"][0]["items"]
    assert ids(answer) == [item["item_id"] for item in listed]
    for place, (choice, item) in enumerate(zip(answer.choices, listed, strict=True)):
        assert (choice.index, choice.finish_reason) == (place, "stop")
        assert (choice.title, choice.semantic_id) == (item["title"], item["semantic_id"])
        assert choice.score == pytest.approx(item["score"], abs=1e-4)
        assert choice.text == code_text(choice.semantic_id)
    assert answer.system_fingerprint == catalog.fingerprint


def test_several_prompts_as_text_and_as_token_ids(client, checkpoint, prompt):
    prompts = [prompt, "Something else"]
    tokens = [prompt_tokens(checkpoint, one) for one in prompts]
    answer = client.completions.create(model="tiny", prompt=prompts, n=3)
    assert [choice.index for choice in answer.choices] == list(range(6))
    single = [client.completions.create(model="tiny", prompt=one, n=3) for one in prompts]
    assert ids(answer) == ids(single[0]) + ids(single[1])
    assert ids(client.completions.create(model="tiny", prompt=tokens, n=3)) == ids(answer)
    assert ids(client.completions.create(model="tiny", prompt=tokens[1], n=3)) == ids(single[1])
    assert answer.usage.prompt_tokens == sum(map(len, tokens))
    assert answer.usage.completion_tokens == 6 * 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 18


def test_logprobs_are_those_of_the_item_tokens(client, prompt):
    for choice in client.completions.create(model="tiny", prompt=prompt, n=4, logprobs=0).choices:
        logprobs = choice.logprobs
        assert "".join(logprobs.tokens) == choice.text
        assert sum(logprobs.token_logprobs) == pytest.approx(choice.score, abs=1e-4)
        starts = [choice.text.index(token) for token in logprobs.tokens]
        assert logprobs.text_offset == starts
        assert logprobs.top_logprobs == [{t: p} for t, p in zip(logprobs.tokens, logprobs.token_logprobs, strict=True)]
    assert client.completions.create(model="tiny", prompt=prompt).choices[0].logprobs is None


def test_chat(client, prompt):
    opening, items = prompt.split("\n")
    messages = [{"role": "user", "content": opening}, {"role": "user", "content": [{"type": "text", "text": items}]}]
    answer = client.chat.completions.create(model="tiny", messages=messages, n=5, logprobs=True, top_logprobs=1)
    listed = client.completions.create(model="tiny", prompt=prompt, n=5)
    assert ids(answer) == ids(listed)
    assert answer.usage == listed.usage
    for choice, completion in zip(answer.choices, listed.choices, strict=True):
        assert (choice.message.role, choice.message.content) == ("assistant", completion.text)
        tokens = choice.logprobs.content
        assert "".join(token.token for token in tokens) == completion.text
        assert bytes(tokens[0].bytes).decode() == tokens[0].top_logprobs[0].token == tokens[0].token
        assert sum(token.logprob for token in tokens) == pytest.approx(choice.score, abs=1e-4)


def test_the_tokenizers_chat_template_is_used(checkpoint_folder):
    checkpoint = open_served(str(checkpoint_folder))
    checkpoint.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system here.') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokens = chat_tokens(checkpoint, [Message(role="user", content="<a_1> hello")])
    assert checkpoint.tokenizer.decode(tokens) == "[user] <a_1> hello\n[assistant]"
    assert tokens.count(int(checkpoint.vocabulary.code_token_ids[0, 1])) == 1
    with running(checkpoint, ToldEngine(checkpoint)) as http:
        messages = [{"role": "system", "content": "x"}]
        answer = http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages})
        assert answer.status_code == 422
        assert "No system here." in answer.json()["error"]["message"]


def test_rules_through_extra_body(client, catalog, prompt):
    def ask(n=5, **rules):
        return client.completions.create(model="tiny", prompt=prompt, n=n, extra_body={"num_beams": 60, **rules})

    whole = ids(ask(60))
    assert sorted(whole) == sorted(catalog.item_ids)
    assert ids(ask(exclude=whole[:3])) == whole[3:8]
    assert ids(ask(allow=[whole[40], whole[30]])) == [whole[30], whole[40]]
    first = catalog.semantic_ids[:, 0]
    kept = [item for item in whole if first[int(item)] == 2]
    assert ids(ask(60, require_prefix=[2])) == kept
    assert ids(ask(60, forbid_prefixes=[[2]])) == [item for item in whole if item not in kept]
    assert len({first[int(item)] for item in ids(ask(max_per_first_code=1))}) == 5
    with pytest.raises(openai.UnprocessableEntityError, match="'nothing'") as refused:
        ask(exclude=["nothing", "1"])
    assert (refused.value.param, refused.value.code) == ("exclude", "unknown_items")
    with pytest.raises(openai.UnprocessableEntityError, match="no item's semantic ID starts with"):
        ask(require_prefix=[2, 700])


def test_fields_that_cannot_change_a_list_are_accepted(client, prompt):
    plain = client.completions.create(model="tiny", prompt=prompt, n=3)
    fields = {"user": "u", "seed": 1, "temperature": 0.7, "top_p": 0.5, "stop": ["x"], "presence_penalty": 1.0}
    fields |= {"frequency_penalty": -1, "max_tokens": 16, "best_of": 3, "echo": False, "stream": False}
    extra = {"use_beam_search": True, "constrained": True}
    assert ids(client.completions.create(model="tiny", prompt=prompt, n=3, **fields, extra_body=extra)) == ids(plain)
    fields = {"store": True, "metadata": {"a": "b"}, "parallel_tool_calls": False, "reasoning_effort": "low"}
    fields |= {"response_format": {"type": "text"}, "tools": [], "max_completion_tokens": 100, "verbosity": "low"}
    messages = [{"role": "user", "content": prompt}]
    assert ids(client.chat.completions.create(model="tiny", messages=messages, n=3, **fields)) == ids(plain)


FREE = {"constrained": False}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("stream", {"stream": True}),
        ("echo", {"echo": True}),
        ("suffix", {"suffix": "x"}),
        ("best_of", {"best_of": 5}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("use_beam_search", {"extra_body": {"use_beam_search": False}}),
        ("max_tokens", {"max_tokens": 2}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("n", {"n": 101}),
        ("n", {"n": 0}),
        ("num_beams", {"n": 5, "extra_body": {"num_beams": 4}}),
        ("num_beams", {"extra_body": {"num_beams": 101}}),
        ("temperature", {"temperature": 3}),
        ("excluded", {"extra_body": {"excluded": ["1"]}}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": [1, 100_000]}),
        ("prompt", {"prompt": [1.5]}),
        ("prompt", {"prompt": ["a", 1]}),
        ("use_beam_search", {"extra_body": FREE | {"use_beam_search": True}}),
        ("logprobs", {"logprobs": 1, "extra_body": FREE}),
        ("exclude", {"extra_body": FREE | {"exclude": ["1"]}}),
        ("presence_penalty", {"presence_penalty": 1, "extra_body": FREE}),
        ("max_tokens", {"max_tokens": 5000, "extra_body": FREE}),
        ("n", {"n": 257, "extra_body": FREE}),
        ("stop", {"stop": [""], "extra_body": FREE}),
    ],
)
def test_what_would_be_silently_wrong_is_refused(client, param, fields):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.completions.create(**({"model": "tiny", "prompt": "a"} | fields))
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("response_format.type", {"response_format": {"type": "json_object"}}),
        ("stream", {"stream": True}),
        ("top_logprobs", {"top_logprobs": 1}),
        ("logprobs", {"logprobs": True, "extra_body": FREE}),
        ("messages", {"messages": []}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("max_tokens", {"max_completion_tokens": 2}),
    ],
)
def test_what_chat_refuses(client, param, fields):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(**({"model": "tiny", "messages": [{"role": "user", "content": "a"}]} | fields))
    assert refused.value.param == param


def test_free_text(client):
    def ask(**fields):
        extra = {"extra_body": FREE}
        return client.completions.create(**{"model": "tiny", "prompt": "Film", "max_tokens": 8} | fields | extra)

    answer = ask(temperature=0)
    (choice,) = answer.choices
    assert choice.item_id is None
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 8)
    assert ask(temperature=0).choices[0].text == choice.text
    drawn = [choice.text for choice in ask(n=3, seed=5).choices]
    assert [choice.text for choice in ask(n=3, seed=5).choices] == drawn
    assert len(set(drawn)) == 3
    assert len(ask(max_tokens=None).choices[0].text) > 0
    stop = choice.text[3]
    cut = ask(temperature=0, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (choice.text[: choice.text.index(stop)], "stop")


def test_a_stream_of_free_text_is_the_text_in_pieces(client):
    fields = {"model": "tiny", "temperature": 0, "max_tokens": 12, "extra_body": FREE}
    whole = client.completions.create(prompt=["Film", "sea"], **fields)
    texts = ["", ""]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(prompt=["Film", "sea"], **fields, **options))
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1

    messages = [{"role": "user", "content": "Film"}]
    whole = client.chat.completions.create(messages=messages, **fields)
    chunks = list(client.chat.completions.create(messages=messages, stream=True, **fields))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_chat_text_without_a_limit_ends_at_the_servers(checkpoint):
    with running(checkpoint, ToldEngine(checkpoint), max_text_tokens=7) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
        messages = [{"role": "user", "content": "Film"}]
        answer = client.chat.completions.create(model="tiny", messages=messages, n=2, extra_body=FREE)
        assert [choice.message.content for choice in answer.choices] == ["a b c d e f g "] * 2


def test_an_error_in_the_middle_of_a_stream_reaches_the_client(checkpoint):
    engine = ToldEngine(checkpoint)
    with running(checkpoint, engine) as http:
        engine.answer = RuntimeError("secret")
        client = openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(model="tiny", prompt="a", stream=True, extra_body=FREE)
        with pytest.raises(openai.APIError, match="could not be written to its end") as failed:
            list(stream)
        assert "secret" not in str(failed.value.body)
        engine.answer = ValueError("too long for this engine")
        with pytest.raises(openai.UnprocessableEntityError, match="too long for this engine"):
            client.completions.create(model="tiny", prompt="a", extra_body=FREE)


def test_an_encoder_gets_its_end_token(tmp_path, catalog):
    checkpoint = open_served(str(save_tiny_checkpoint(tmp_path / "t5", catalog, "t5")))
    eos = checkpoint.tokenizer.eos_token_id
    tokens = prompt_tokens(checkpoint, "History:\n<a_1>")
    assert tokens[-1] == eos
    assert tokens.count(eos) == 1
    assert prompt_tokens(checkpoint, tokens) == tokens
    assert prompt_tokens(checkpoint, "") == []
    with running(checkpoint) as http:
        body = {"model": "t5", "prompt": "History:\n<a_1>", "n": 3}
        listed = http.post("/v1/completions", json=body).json()
        assert len(listed["choices"]) == 3
        assert listed["usage"]["prompt_tokens"] == len(tokens)
