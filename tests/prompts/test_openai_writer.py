"""A language model as the writer, against a real HTTP server: failures, bad answers, pace, kill and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.answer_cache import AnswerCache
from llmrec.prompts.instructions import build_instructions
from llmrec.prompts.item_text import ItemText
from llmrec.prompts.openai_writer import MAX_ANSWER_CHARS, OpenAIWriter, Pace, WriterError, checked_answer
from llmrec.prompts.writer import Preferences, WriterRequest
from tests.prompts.chat_server import ChatServer, chat_server, good_answer
from tests.prompts.conftest import MARKER, SmallDataset

GOOD = {"overall_preference": "Drama.", "long_term_preference": "Old films.", "short_term_preference": "New ones."}


def _writer(server: ChatServer, folder: Path, **options: Any) -> OpenAIWriter:
    options = {"retry_seconds": 0.01, "concurrency": 2, "attempts": 3, **options}
    return OpenAIWriter(server.base_url, "tiny", folder / "answers.jsonl", **options)


def _requests(count: int) -> list[WriterRequest]:
    items = [ItemText(f"Film {number}", "", "", ("Drama",)) for number in range(count + 1)]
    return [WriterRequest(f"u{row}", tuple(items[: row + 1]), items[row + 1], "Good.") for row in range(count)]


def test_texts_come_in_order_and_are_paid_for_once(tmp_path: Path) -> None:
    requests = _requests(9)
    with chat_server() as server:
        first = [
            list(_writer(server, tmp_path).intentions(requests)),
            list(_writer(server, tmp_path).preferences(requests)),
        ]
        assert len(server.bodies) == 18
        again = [
            list(_writer(server, tmp_path).intentions(requests)),
            list(_writer(server, tmp_path).preferences(requests)),
        ]
        assert len(server.bodies) == 18
        other_model = OpenAIWriter(server.base_url, "large", tmp_path / "answers.jsonl")
        list(other_model.preferences(requests[:1]))
        assert len(server.bodies) == 19
    assert first == again
    alone = {request.user_id: text for request, text in zip(requests, first[1], strict=True)}
    questions = {question.count("Film"): question for question in server.questions if "overall_preference" in question}
    for row, request in enumerate(requests):
        expected = json.loads(good_answer({"messages": [{"content": questions[row + 1]}]}))
        assert alone[request.user_id] == Preferences(**expected)


def test_rate_limits_and_server_errors_are_tried_again(tmp_path: Path) -> None:
    script = {0: (429, "slow down", {"retry-after": "0.2"}), 1: (500, "oops", {}), 2: (503, "busy", {})}
    with chat_server(lambda number, body: script.get(number, (200, good_answer(body), {}))) as server:
        texts = list(_writer(server, tmp_path, attempts=4, concurrency=1).preferences(_requests(2)))
    assert len(texts) == 2
    assert len(server.bodies) == 5
    assert server.times[1] - server.times[0] >= 0.2


@pytest.mark.parametrize(
    "bad",
    [
        "I'd rather not.",
        "",
        '{"overall_preference": "Drama."}',
        json.dumps({**GOOD, "overall_preference": "  "}),
        json.dumps({**GOOD, "overall_preference": 7}),
        json.dumps({**GOOD, "overall_preference": "x" * (MAX_ANSWER_CHARS + 1)}),
        json.dumps({**GOOD, "overall_preference": "bell \u0007"}),
        json.dumps(GOOD)[:-10],
    ],
)
def test_a_bad_answer_is_asked_for_again_and_never_kept(tmp_path: Path, bad: str) -> None:
    with chat_server(lambda number, body: (200, bad if number == 0 else good_answer(body), {})) as server:
        writer = _writer(server, tmp_path)
        (text,) = writer.preferences(_requests(1))
    assert text.overall_preference.startswith("overall_preference of")
    assert len(server.bodies) == 2
    assert len(AnswerCache(tmp_path / "answers.jsonl")) == 1


def test_an_answer_that_stays_bad_ends_with_an_error_that_names_the_user(tmp_path: Path) -> None:
    def behaviour(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        return 200, "no" if "6. Film" in body["messages"][-1]["content"] else good_answer(body), {}

    with chat_server(behaviour) as server:
        writer = _writer(server, tmp_path, concurrency=1)
        with pytest.raises(WriterError, match=r"(?s)preference of user 'u5' in 3 attempts.*'no'.*run again"):
            list(writer.preferences(_requests(9)))
        server.behaviour = lambda _, body: (200, good_answer(body), {})
        before = len(server.bodies)
        assert len(list(_writer(server, tmp_path).preferences(_requests(9)))) == 9
        assert len(server.bodies) - before <= 4  # u5 and those after it; what was written is kept


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_trying_again_cannot_help_stops_at_once(tmp_path: Path, status: int) -> None:
    refusal = pytest.raises(WriterError, match=rf"(?s)refused to write the intention of user 'u0'.*{status}.*no such")
    with chat_server(lambda *_: (status, "no such model", {})) as server, refusal:
        list(_writer(server, tmp_path, concurrency=1).intentions(_requests(1)))
    assert len(server.bodies) == 1


def test_an_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with chat_server() as server:
        pass
    with pytest.raises(WriterError, match=r"(?s)3 attempts.*base_url http://127.0.0.1"):
        list(_writer(server, tmp_path).preferences(_requests(1)))


def test_requests_keep_the_pace_over_all_threads(tmp_path: Path) -> None:
    with chat_server() as server:
        list(_writer(server, tmp_path, requests_per_minute=60 / 0.05, concurrency=4).preferences(_requests(6)))
    assert server.times[-1] - server.times[0] >= 5 * 0.05 - 0.02
    with pytest.raises(ValueError, match="requests_per_minute is 0"):
        Pace(0)


def test_the_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    with chat_server() as server:
        list(_writer(server, tmp_path).preferences(_requests(1)))
    assert server.keys == ["Bearer mine"]
    assert "mine" not in (tmp_path / "answers.jsonl").read_text()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match="pip install openai"):
        OpenAIWriter("http://127.0.0.1:1/v1", "tiny", tmp_path / "answers.jsonl")


def test_the_endpoint_is_sent_nothing_of_a_users_future_and_no_target_with_a_preference(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    with chat_server() as server:
        tables = build_instructions(
            small_dataset, tmp_path, ["itemsearch", "preferenceobtain"], _writer(server, tmp_path)
        )
    assert MARKER not in json.dumps(server.bodies)
    assert len(server.bodies) == 6  # 3 users, 2 requests each: preferenceobtain takes what itemsearch paid for
    assert set(tables["itemsearch"]["writer"].to_pylist()) == {"openai:tiny"}
    # u3 chose 3, 4, 5, 6, 7 and then 0: its preference must not know 0
    (preference,) = [text for text in server.questions if "overall_preference" in text and "Film 7 " in text]
    assert "Film 0 " not in preference
    assert "Great" not in preference


@given(st.text(max_size=30).map(lambda text: text.replace("{", "(")), st.text(max_size=30))
def test_the_object_is_found_in_whatever_stands_around_it(before: str, after: str) -> None:
    content = f'{before} {{"overall_preference": 1}} ```json\n{json.dumps(GOOD)}\n``` {after}'
    assert checked_answer(content, Preferences._fields) == GOOD


def test_a_cache_cut_in_its_last_line_loses_that_line_only_and_can_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    cache = AnswerCache(path)
    cache.put("a", {"text": "é"})
    cache.put("b", {"text": "two"})
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines(keepends=True)[0]), len(whole)):
        path.write_bytes(whole[:cut])
        shorter = AnswerCache(path)
        assert (shorter.get("a"), shorter.get("b")) == ({"text": "é"}, None)
        shorter.put("c", {"text": "three"})
        assert AnswerCache(path).get("c") == {"text": "three"}
    path.write_text("not a cache\n")
    with pytest.raises(ValueError, match=r"answers\.jsonl is not a cache of answers"):
        AnswerCache(path)


_KILLED = """
import sys
from pathlib import Path
from llmrec.prompts.openai_writer import OpenAIWriter
from tests.prompts.test_openai_writer import _requests
writer = OpenAIWriter(sys.argv[1], "tiny", Path(sys.argv[2]) / "answers.jsonl", concurrency=2)
list(writer.preferences(_requests(30)))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_answers_it_has(tmp_path: Path) -> None:
    def slowly(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        time.sleep(0.1)
        return 200, good_answer(body), {}

    with chat_server(slowly) as server:
        command = [sys.executable, "-c", _KILLED, server.base_url, str(tmp_path)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 60
        while len(server.bodies) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept, asked = len(AnswerCache(tmp_path / "answers.jsonl")), len(server.bodies)
        assert 0 < kept < 30
        assert asked - kept <= 3  # those under way when it was killed
        server.behaviour = lambda _, body: (200, good_answer(body), {})
        texts = list(_writer(server, tmp_path).preferences(_requests(30)))
        assert len(server.bodies) - asked == 30 - kept
    assert len(texts) == len(set(texts)) == 30
