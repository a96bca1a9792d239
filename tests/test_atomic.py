"""Processes that work in one folder take turns."""

import logging
import threading
from pathlib import Path

import pytest

from llmrec.atomic import one_at_a_time


def test_one_works_in_a_folder_and_the_next_one_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entered = threading.Event()

    def work() -> None:
        with one_at_a_time(tmp_path / "stage"):
            entered.set()

    with caplog.at_level(logging.INFO), one_at_a_time(tmp_path / "stage"):
        thread = threading.Thread(target=work)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set()
    assert "Another process is at work" in caplog.text


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), one_at_a_time(tmp_path):
        raise KeyboardInterrupt
    with one_at_a_time(tmp_path):
        pass
