"""Answers of a language model on disk: paid for once, kept through a kill."""

import json
import threading
from pathlib import Path


class AnswerCache:
    """JSON lines ``{"key": ..., "answer": {...}}``, appended one by one as answers arrive.

    A process killed while it writes leaves at most one broken last line; the next one drops it.

    Args:
        path: file to continue or start.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._answers = self._read()

    def _read(self) -> dict[str, dict[str, str]]:
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            return {line["key"]: line["answer"] for line in lines}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is not a cache of answers ({error}): move it away to start over.") from None

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> dict[str, str] | None:
        """The answer kept under ``key``, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: dict[str, str]) -> None:
        """Keep ``answer``, on disk before this returns."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
            self._answers[key] = answer
