"""Servers as the benchmarks of serving start them: real processes on a free port, timed, weighed and stopped."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

START_SECONDS = 300.0
STOP_SECONDS = 30.0
ADMIN_KEY = "benchmark-admin"

OURS = ("transformers", "vllm")
STOCK = "stock_vllm"
#: name -> what a table calls it.
SERVERS = {
    "transformers": "llmrec serve --engine transformers",
    "vllm": "llmrec serve --engine vllm",
    STOCK: "stock vLLM, dictionary trie",
}


@dataclass
class Server:
    """A process that answers at ``url``.

    Attributes:
        name: one of ``SERVERS``.
        url: without a slash at the end.
        process: its head; vLLM has children.
        log: file of everything that it prints.
        startup_seconds: from the start of the process to the first 200 of /health.
        command: as it was started.
    """

    name: str
    url: str
    process: psutil.Popen
    log: Path
    startup_seconds: float
    command: list[str] = field(default_factory=list)

    def resident_bytes(self) -> float:
        """Resident memory of the process and all its children, now. What they share counts in each."""
        return sum(self._of_each(lambda process: process.memory_info().rss))

    def cpu_seconds(self) -> float:
        """What the process and its children have computed so far, on all cores."""
        return sum(self._of_each(lambda process: sum(process.cpu_times()[:2])))

    def _of_each(self, measure: Callable[[psutil.Process], float]) -> Iterator[float]:
        for process in [self.process, *self.process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # a child may end meanwhile
                yield measure(process)

    def description(self) -> dict[str, Any]:
        # names of folders say enough, and paths of a machine mean nothing on another one
        command = " ".join(Path(part).name if part.startswith("/") else part for part in self.command)
        return {"server": self.name, "command": command, "startup_seconds": self.startup_seconds}


@contextmanager
def serving(name: str, checkpoint: Path, max_beams: int, log: Path) -> Iterator[Server]:
    """A server of ``checkpoint``, stopped at the end.

    Args:
        name: one of ``SERVERS``.
        checkpoint: folder.
        max_beams: the widest search that will be asked for.
        log: file for its output.

    Raises:
        RuntimeError: if it stops by itself, or does not answer within ``START_SECONDS``; with the end of its output.
    """
    port = free_port()
    command = _command(name, checkpoint, port, max_beams)
    start = time.perf_counter()
    with log.open("wb") as output:
        process = psutil.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for_health(process, url, start, log)
        yield Server(name, url, process, log, time.perf_counter() - start, command)
    finally:
        _stop(process)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def model_name(server: Server) -> str:
    """The name that requests must give."""
    answer = httpx.get(f"{server.url}/v1/models", timeout=30)
    answer.raise_for_status()
    return answer.json()["data"][0]["id"]


def _command(name: str, checkpoint: Path, port: int, max_beams: int) -> list[str]:
    """float32 for all: precision decides neither speed nor the comparison of lists."""
    if name != STOCK:
        command = [sys.executable, "-m", "llmrec.cli", "serve", str(checkpoint), "--engine", name, "--port", str(port)]
        return [*command, "--dtype", "float32", "--scores", "vocabulary", "--max_num_beams", str(max(100, max_beams))]
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *("--model", str(checkpoint), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
        *("--enforce-eager", "--max-logprobs", str(2 * max_beams), "--logprobs-mode", "processed_logits"),
        *("--logits-processors", "benchmarks.serving_stock:DictTrieProcessor"),
        *("--block-size", "32", "--disable-uvicorn-access-log", "--disable-log-stats"),
    ]


def _environment() -> dict[str, str]:
    """Nothing here may reach for a network, and vLLM must not take half the memory for its cache."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "LLMREC_ADMIN_KEY": ADMIN_KEY,
    }


def _wait_for_health(process: psutil.Popen, url: str, start: float, log: Path) -> None:
    while time.perf_counter() - start < START_SECONDS:
        if process.poll() is not None:
            raise RuntimeError(f"The server stopped with status {process.returncode}: {_end_of(log)}")
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"The server did not answer within {START_SECONDS:.0f} s: {_end_of(log)}")


def _end_of(log: Path) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    return "\n".join(text.splitlines()[-20:])


def _stop(process: psutil.Popen) -> None:
    """SIGTERM to the head, so that it ends its children; what is left after that is killed."""
    try:
        family: Sequence[psutil.Process] = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
