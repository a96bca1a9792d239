"""A chat endpoint on this machine that answers, fails or babbles as it is told."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: (number of the request from 0, request body) -> HTTP status, content of the answer (or of the error), headers.
Behaviour = Callable[[int, dict[str, Any]], tuple[int, str, dict[str, str]]]


def good_answer(body: dict[str, Any]) -> str:
    """A valid JSON answer with every key that the question names; the same for the same question."""
    question = body["messages"][-1]["content"]
    keys = re.findall(r'"(\w+_(?:intention|preference))"', question)
    return json.dumps({key: f"{key} of {sum(map(ord, question))}." for key in keys})


def always_good(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    return 200, good_answer(body), {}


@dataclass
class ChatServer:
    """What has been asked so far: request bodies and their times, in order."""

    behaviour: Behaviour
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    base_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def chat_server(behaviour: Behaviour = always_good) -> Iterator[ChatServer]:
    """A server of ``/v1/chat/completions`` on a free port of the loopback interface."""
    state = ChatServer(behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                number = len(state.bodies)
                state.bodies.append(body)
                state.times.append(time.monotonic())
                state.keys.append(self.headers.get("authorization"))
            status, content, headers = state.behaviour(number, body)
            if self.path != "/v1/chat/completions":
                status, content = 404, "no such path"
            self._send(status, _response(body, content) if status == 200 else {"error": {"message": content}}, headers)

        def _send(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
            payload = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _response(body: dict[str, Any], content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
