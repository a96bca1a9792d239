"""The benchmarks of serving: a fair contender, an honest client, and counts that would show what goes wrong."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from benchmarks import serving, serving_parity, serving_soak
from benchmarks.serving_client import Load, Reply, closed_loop, completion_list, count_faults, metric
from benchmarks.serving_process import OURS, STOCK
from llmrec.catalog import Catalog
from llmrec.serving.checkpoint import open_served
from tests.serving.conftest import save_tiny_checkpoint
from tests.tiny import make_catalog


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state
        with state.lock:
            state.running += 1
            state.most = max(state.most, state.running)
        time.sleep(0.01)
        with state.lock:
            state.running -= 1
        self._answer(body["status"], json.dumps(body).encode())

    def do_GET(self) -> None:
        text = (
            '# HELP a b\nllmrec_seconds_count{route="/x"} 2.0\nllmrec_seconds_count{route="/y"} 3.0\nllmrec_seconds 9\n'
        )
        self._answer(200, text.encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    """Answers every body with itself and the status that it names."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state = SimpleNamespace(lock=threading.Lock(), running=0, most=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_closed_loop_keeps_so_many_under_way_and_replies_in_the_order_asked(echo) -> None:
    bodies = [{"number": number, "status": 429 if number == 5 else 200} for number in range(20)]
    started: list[int] = []
    load = closed_loop(f"http://127.0.0.1:{echo.server_port}", bodies, users=3, at_request=started.append)
    assert [json.loads(reply.body)["number"] for reply in load.replies] == list(range(20)) == started
    assert [reply.status for reply in load.replies].count(429) == 1
    assert echo.state.most == 3
    assert all(0.01 <= reply.seconds <= load.seconds for reply in load.replies)
    assert load.figures()["requests_per_s"] == pytest.approx(19 / load.seconds)


def test_a_server_that_is_not_there_counts_as_errors() -> None:
    load = closed_loop("http://127.0.0.1:9", [{}, {}], users=2)
    assert [reply.status for reply in load.replies] == [0, 0]
    assert np.isnan(load.figures()["p99_ms"])


def test_a_metric_is_summed_over_its_labels_and_no_other_name(echo) -> None:
    url = f"http://127.0.0.1:{echo.server_port}"
    assert metric(url, "llmrec_seconds_count") == 5.0
    with pytest.raises(ValueError, match="llmrec_second"):
        metric(url, "llmrec_second")


def test_beams_that_ran_out_are_no_items() -> None:
    choices = [("<a_1><b_2>", [-1.0, -2.0]), ("<a_1><b_3>", [-1.0, -9999.0])]
    body = {"choices": [{"text": text, "logprobs": {"token_logprobs": log_probs}} for text, log_probs in choices]}
    assert completion_list(Reply(0.1, 200, json.dumps(body).encode())) == [("<a_1><b_2>", -3.0)]


def test_entries_outside_the_catalogue_and_repeated_ones_are_counted() -> None:
    lists = [[("a", 0.0), ("b", 0.0), ("a", 0.0)], [("c", 0.0), ("b", 0.0)], []]
    assert count_faults(lists, frozenset("ab")) == {"invalid": 1, "duplicates": 1}


def test_results_name_folders_but_not_where_they_lie() -> None:
    settings = {"checkpoint": "/home/me/outputs/demo", "dataset_dir": None, "users": (1,), "output": Path("a.json")}
    assert serving.shown(settings) == {"checkpoint": "demo", "dataset_dir": None, "users": (1,)}


def test_the_summary_takes_our_faster_engine_where_the_headline_is() -> None:
    settings, _ = serving.parse(["--beams", "10", "20", "--users", "1", "8"])
    faults = {"errors": 0, "invalid": 0, "duplicates": 0}
    speeds = {"transformers": 30.0, "vllm": 40.0, STOCK: 10.0}
    runs = [
        {"server": name, "num_beams": beams, "users": users, "requests_per_s": speed * users, "p99_ms": speed, **faults}
        for name, speed in speeds.items()
        for beams in (10, 20)
        for users in (1, 8)
    ]
    runs[0]["errors"], runs[-1]["invalid"] = 1, 5  # the last is stock's
    servers = [{"server": name, "repeated": {**faults, "duplicates": 2}, "invalid_beams": 3} for name in OURS]
    servers.append({"server": STOCK, "repeated": faults})
    summary = serving.summary(settings, {"runs": runs, "servers": servers})
    assert summary["ratios"] == {"transformers": 3.0, "vllm": 4.0}
    assert (summary["best"], summary["throughput_ratio_vs_stock_vllm"], summary["p99_ms"]) == ("vllm", 4.0, 40.0)
    assert (summary["errors"], summary["invalid"], summary["duplicates"]) == (1, 6, 4)


def test_lists_of_two_servers_are_compared_request_by_request() -> None:
    settings, _ = serving.parse(["--beams", "10", "--users", "1", "--engines", "transformers", STOCK])
    ours = [[("a", -1.0), ("b", -2.0)], [("a", -1.0), ("b", -1.0001)], [("a", -1.0)], []]
    stock = [[("a", -1.0), ("b", -2.0)], [("b", -1.0), ("a", -1.0001)], [("b", -1.5)], [("a", -1.0)]]
    cell = settings.cells[0]
    [row] = serving.compare_lists(settings, {("transformers", cell): ours, (STOCK, cell): stock})
    assert (row["lists"], row["identical"], row["equal_but_ties"]) == (3, 1, 2)
    assert row["share"] == pytest.approx(2 / 3)


def test_changed_catalogues_share_ids_but_not_items_and_a_mixture_shows() -> None:
    catalog = make_catalog(60, (8, 8, 4))
    changed = serving_soak.changed_catalogs(catalog, seed=0)
    known = {one.fingerprint: one for one in (catalog, *changed.values())}
    assert len(known) == 3
    for one in changed.values():
        kept = [item_id for item_id in one.item_ids if item_id in catalog.item_index]
        rows, before = one.rows_of(kept), catalog.rows_of(kept)
        assert (one.semantic_ids[rows] == catalog.semantic_ids[before]).all()
        new = {tuple(one.semantic_ids[row]) for name, row in one.item_index.items() if name not in kept}
        old = {tuple(row) for row in catalog.semantic_ids.tolist()}
        assert new & old  # an old ID that names another item now
        assert new - old
    spring, autumn = changed.values()
    good = _answer(spring, spring.item_ids[-3:])
    assert serving_soak.mixed_lists(Load([good], 1.0), known)["mixed"] == 0
    bad = [_answer(autumn, spring.item_ids[-3:]), _answer(make_catalog(5), ["0"])]
    figures = serving_soak.mixed_lists(Load([good, *bad, Reply(1.0, 500, b"")], 1.0), known)
    assert (figures["mixed"], figures["errors"], figures["new_items"]) == (2, 1, 6)


def _answer(catalog: Catalog, items: list[str]) -> Reply:
    listed = [{"item_id": item_id, "score": -1.0} for item_id in items]
    return Reply(1.0, 200, json.dumps({"catalog": catalog.fingerprint, "data": [{"items": listed}]}).encode())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("serving_benchmark") / "tiny", make_catalog(60, (8, 8, 4)))


def last_line(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in (pair.split("=") for pair in text.strip().splitlines()[-1].split(" "))}


@pytest.mark.slow
def test_the_contender_allows_exactly_what_the_catalogue_continues(tiny: Path) -> None:
    stock = pytest.importorskip("benchmarks.serving_stock")
    processor = _processor(stock, tiny)
    served = open_served(str(tiny))
    items = served.vocabulary.item_token_ids(served.catalog.semantic_ids).tolist()
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(200):
        history = [token for row in rng.integers(0, 60, rng.integers(0, 3)) for token in items[row]]
        text = [] if rng.random() < 0.5 else [5, 6]
        item = items[rng.integers(60)]
        unknown = [item[0], items[rng.integers(60)][1]]  # known codes that may not be a prefix
        prefix = [item[: rng.integers(3)], unknown][int(rng.random() < 0.2)]
        # what stock beams put into the prompt, and what plain decoding has in the output
        cut = rng.integers(len(prefix) + 1)
        requests.append(([7, *history, *text, *prefix[:cut]], prefix[cut:], prefix))
    _add(stock, processor, requests)
    logits = torch.randn(len(requests), len(served.tokenizer), generator=torch.manual_seed(0))
    scores = processor.apply(logits.clone())
    for row, (_, _, prefix) in enumerate(requests):
        allowed = {item[len(prefix)] for item in items if item[: len(prefix)] == prefix}
        assert set(scores[row].isfinite().nonzero()[:, 0].tolist()) == allowed
        for token in allowed:
            assert scores[row, token] == pytest.approx(float(logits[row].log_softmax(-1)[token]))


@pytest.mark.slow
def test_the_contender_follows_requests_that_come_move_and_go(tiny: Path) -> None:
    stock = pytest.importorskip("benchmarks.serving_stock")
    processor = _processor(stock, tiny)
    served = open_served(str(tiny))
    items = served.vocabulary.item_token_ids(served.catalog.semantic_ids).tolist()
    prefixes = [items[0][:1], items[1][:2], [], items[2][:1]]
    _add(stock, processor, [([7, *prefix], [], prefix) for prefix in prefixes])
    direction = stock.MoveDirectionality
    moved = [(0, 1, direction.SWAP), (3, 2, direction.UNIDIRECTIONAL)]
    processor.update_state(stock.BatchUpdate(3, removed=[2], added=[], moved=moved))
    processor.update_state(None)
    scores = processor.apply(torch.zeros(3, len(served.tokenizer)))
    for row, prefix in enumerate([prefixes[1], prefixes[0], prefixes[3]]):
        allowed = {item[len(prefix)] for item in items if item[: len(prefix)] == prefix}
        assert set(scores[row].isfinite().nonzero()[:, 0].tolist()) == allowed


def _processor(stock, folder: Path):
    config = SimpleNamespace(model_config=SimpleNamespace(model=str(folder)))
    return stock.DictTrieProcessor(config, torch.device("cpu"), False)


def _add(stock, processor, requests) -> None:
    added = [(index, None, prompt, output) for index, (prompt, output, _) in enumerate(requests)]
    processor.update_state(stock.BatchUpdate(len(requests), removed=[], added=added, moved=[]))


@pytest.mark.slow
def test_a_load_test_ends_with_its_figures_and_leaves_no_process(tmp_path: Path, capsys) -> None:
    output = tmp_path / "serving.json"
    arguments = ["--engines", "transformers", "--beams", "4", "8", "--users", "1", "2", "--requests", "6"]
    before = set(psutil.Process().children(recursive=True))  # other tests' servers
    serving.main([*arguments, "--warm_up", "2", "--output", str(output)])
    assert not set(psutil.Process().children(recursive=True)) - before
    figures = last_line(capsys.readouterr().out)
    assert list(figures) == ["throughput_ratio_vs_stock_vllm", "p99_ms", "errors", "invalid", "duplicates"]
    assert figures["errors"] == figures["invalid"] == figures["duplicates"] == 0
    assert 0 < figures["p99_ms"] < 60_000
    results = json.loads(output.read_text())
    assert [(run["num_beams"], run["users"]) for run in results["runs"]] == [(4, 1), (4, 2), (8, 1), (8, 2)]
    assert results["not_run"] == []
    assert "random weights" in results["workload"]
    assert str(tmp_path) not in output.read_text()
    assert output.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
def test_a_server_that_does_not_start_is_listed_with_the_end_of_its_output(tmp_path: Path, tiny: Path) -> None:
    (tiny.parent / "broken").mkdir()
    for path in tiny.iterdir():
        if path.is_file() and path.name != "model.safetensors":
            (tiny.parent / "broken" / path.name).write_bytes(path.read_bytes())
    workload = SimpleNamespace(checkpoint=SimpleNamespace(folder=tiny.parent / "broken"))
    settings, _ = serving.parse([])
    results: dict = {"not_run": []}
    serving.run_server(OURS[0], settings, workload, tmp_path / "log", results, {})
    assert "status" in results["not_run"][0]["reason"]


@pytest.mark.slow
def test_a_short_soak_and_reloads_hold(tiny: Path, capsys) -> None:
    common = ["--checkpoint", str(tiny), "--users", "4", "--num_beams", "10", "--k", "5"]
    with pytest.raises(SystemExit) as status:
        serving_soak.main([*common, "--requests", "60"])
    figures = last_line(capsys.readouterr().out)
    counts = ("errors", "invalid", "duplicates", "seen", "invalid_beams", "queue")
    assert [figures[name] for name in counts] == [0] * len(counts)
    assert status.value.code == int(figures["growth"] > serving_soak.GROWTH)
    with pytest.raises(SystemExit) as status:
        serving_soak.main([*common, "--reload", "--requests", "80"])
    figures = last_line(capsys.readouterr().out)
    assert status.value.code == 0
    assert (figures["swaps"], figures["mixed"], figures["catalogs"]) == (10, 0, 3)


@pytest.mark.slow
def test_served_lists_are_those_of_evaluation(tmp_path: Path, tiny: Path, capsys) -> None:
    arguments = ["--checkpoint", str(tiny), "--num_users", "12", "--num_beams", "8", "--k", "6"]
    with pytest.raises(SystemExit) as status:
        serving_parity.main([*arguments, "--engines", "transformers", "--output", str(tmp_path / "parity.json")])
    figures = last_line(capsys.readouterr().out)
    assert status.value.code == 0
    assert figures["mismatches"] == 0
    assert figures["users"] == figures["identical"] + figures["differ_by_ties"] == 12
