"""Lists for a file of histories: right, in order, and the same after an interruption."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.schema import DataError
from llmrec.serving.batch.block import RECOMMENDATIONS, checkpoint_fingerprint
from llmrec.serving.batch.input import HistoryReader, open_histories
from llmrec.serving.batch.parts import Output
from llmrec.serving.batch.recommend import RecommendOptions, recommend_file
from llmrec.serving.checkpoint import open_served
from tests.decoding.oracle import oracle_ranking, oracle_scores
from tests.serving.conftest import save_tiny_checkpoint
from tests.tiny import make_catalog, make_device_trie

OPTIONS = RecommendOptions(k=5, num_beams=10, batch_size=4, block_size=7, device="cpu")

RUN = """
import sys
from pathlib import Path
from llmrec.serving.batch.recommend import RecommendOptions, recommend_file
recommend_file(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), RecommendOptions(**eval(sys.argv[4])))
"""


def random_histories(num_users, num_items=60, seed=0):
    """Histories of 0 to 30 items: some are longer than the model is shown."""
    rng = np.random.default_rng(seed)
    return [[str(item) for item in rng.integers(0, num_items, rng.integers(0, 31))] for _ in range(num_users)]


def write(path, row_group_size=10, **columns):
    """A parquet file of columns; plain lists get the types of ``schema.HISTORIES``."""
    types = {"user_id": pa.string()}
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, types.get(name, pa.list_(pa.string())))
        for name, values in columns.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path, row_group_size=row_group_size)
    return path


def stop_after_two_blocks(monkeypatch, checkpoint, histories, output, options):
    """A call that ends when it has saved two blocks."""
    write_part, written = Output.write, []

    def stop(target, block, table):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(block)
        write_part(target, block, table)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            recommend_file(checkpoint, histories, output, options)
    assert not output.exists()
    assert len(list(output.with_name(f"{output.name}.parts").glob("part-*"))) == 2


@pytest.fixture
def recommend(checkpoint_folder, tmp_path):
    """``recommend(histories, **options)`` -> rows of the output, as dicts."""

    def run(histories, **options):
        output = tmp_path / "out" / "recommendations.parquet"
        recommend_file(str(checkpoint_folder), histories, output, replace(OPTIONS, **options))
        return pq.read_table(output).to_pylist()

    return run


def test_lists_are_those_of_offline_evaluation(recommend, checkpoint, tmp_path):
    histories = random_histories(40)
    rows = recommend(write(tmp_path / "h.parquet", user_id=[f"u{i}" for i in range(40)], history=histories))
    indices = [checkpoint.catalog.rows_of(history) for history in histories]
    expected = checkpoint.recommender(num_beams=10).recommend(
        checkpoint.load_model(), indices, 5, exclude=indices, progress=False
    )
    catalog = checkpoint.catalog
    for number, (row, items) in enumerate(zip(rows, expected.tolist(), strict=True)):
        assert row["user_id"] == f"u{number}"
        assert row["item_ids"] == [catalog.item_ids[item] for item in items]
        assert row["titles"] == [catalog.titles[item] for item in items]
        assert row["semantic_ids"] == catalog.semantic_ids[items].tolist()
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert not set(row["item_ids"]) & set(histories[number])


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
def test_lists_and_scores_are_those_of_scoring_every_item(architecture, tmp_path):
    catalog = make_catalog(30)
    folder = save_tiny_checkpoint(tmp_path / architecture, catalog, architecture)
    histories = random_histories(6, num_items=30)
    write(tmp_path / "h.parquet", history=histories)
    output = tmp_path / "out.parquet"
    recommend_file(str(folder), tmp_path / "h.parquet", output, replace(OPTIONS, k=10, num_beams=30))
    served = open_served(str(folder))
    trie, renderer = make_device_trie(catalog, served.vocabulary), served.renderer(catalog)
    for history, row in zip(histories, pq.read_table(output).to_pylist(), strict=True):
        scores = oracle_scores(served.load_model(), served.prompt_tokens(renderer, history), trie, "vocabulary")
        allowed = [item for item in range(30) if str(item) not in history]
        items, best = oracle_ranking(scores, allowed, 10)
        assert row["item_ids"] == [str(item) for item in items]
        assert np.allclose(row["scores"], best.numpy(), rtol=1e-4)


def test_what_may_not_be_recommended(recommend, tmp_path):
    history, everything = ["1", "2"], [str(item) for item in range(60)]
    path = write(
        tmp_path / "h.parquet",
        history=[history] * 4,
        seen_item_ids=[history, everything[:50], [], everything],
        exclude=[["3"], [], [], []],
        blocked=[[], [], everything[:58], []],
    )
    plain = recommend(path)
    assert not {"1", "2", "3"} & set(plain[0]["item_ids"])
    assert set(plain[1]["item_ids"]) <= set(everything[50:])  # seen_item_ids, not the history
    assert plain[3]["item_ids"] == plain[3]["scores"] == plain[3]["semantic_ids"] == []
    blocked = recommend(path, exclude_column="blocked", overwrite=True)
    assert sorted(blocked[2]["item_ids"]) == ["58", "59"]
    seen = recommend(path, include_seen=True, overwrite=True)
    assert seen[1] == seen[2] | {"user_id": "1"} == seen[3] | {"user_id": "1"}
    assert "3" not in seen[0]["item_ids"]


def test_users_without_ids_are_numbered_and_every_string_type_is_read(recommend, tmp_path):
    histories = random_histories(20)
    folder = tmp_path / "in"
    write(folder / "a.parquet", history=histories[:5])
    write(folder / "b" / "c.parquet", history=pa.array(histories[5:12], pa.large_list(pa.large_string())))
    write(folder / "d.parquet", history=pa.array(histories[12:], pa.list_(pa.dictionary(pa.int32(), pa.string()))))
    write(folder / "e.parquet", history=pa.array([[], []]))  # a list of no type
    write(folder / ".hidden" / "f.parquet", nothing=[])
    rows = recommend(folder)
    assert [row["user_id"] for row in rows] == [str(number) for number in range(22)]
    one_file = recommend(write(tmp_path / "h.parquet", history=[*histories, [], []]), overwrite=True)
    assert one_file == rows


def test_no_histories_give_an_empty_table(recommend, tmp_path):
    assert recommend(write(tmp_path / "h.parquet", history=[])) == []
    assert pq.read_schema(tmp_path / "out" / "recommendations.parquet").equals(RECOMMENDATIONS)


def test_unknown_items_by_option(recommend, tmp_path):
    histories = [["1", "2"], ["1", "nothing", "2"], ["nothing"], []]
    path = write(tmp_path / "h.parquet", history=histories, exclude=[[], [], ["gone"], []])
    with pytest.raises(DataError, match=r"3 item ids.*'nothing' \(h.parquet, history, row 1\).*'gone'.*skip"):
        recommend(path)
    rows = recommend(path, unknown_items="skip")
    for known, unknown in ((0, 1), (3, 2)):
        assert rows[unknown] == rows[known] | {"user_id": str(unknown)}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"items": [["1"]]}, "no column 'history'; its columns are items"),
        ({"history": pa.array(["1"])}, "'history' is string; it must be list<string>"),
        ({"history": pa.array([[1]])}, r"list<.*int64>; it must be list<string>"),
        ({"history": [["1"]], "user_id": pa.array([1])}, "'user_id' is int64; it must be string"),
        ({"history": [["1"], None]}, "history is null in row 1"),
        ({"history": [[]] * 12 + [["1"], ["2", None]]}, "history holds a null item id in row 13"),
        ({"history": [["1"]], "user_id": [None]}, "user_id is null in row 0"),
        ({"history": [["1"]], "exclude": [None]}, "exclude is null in row 0"),
    ],
)
def test_bad_tables_are_refused_with_what_is_wrong(recommend, tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        recommend(write(tmp_path / "h.parquet", **columns))
    assert not (tmp_path / "out").exists()


def test_bad_files_and_places_are_refused(recommend, checkpoint_folder, tmp_path):
    (tmp_path / "text.parquet").write_text("not parquet")
    (tmp_path / "empty").mkdir()
    good = write(tmp_path / "in" / "h.parquet", history=random_histories(200))
    for path, message in (
        (tmp_path / "text.parquet", "can't be read as parquet"),
        (tmp_path / "empty", "no parquet files"),
        (tmp_path / "missing.parquet", "neither a file nor a folder"),
    ):
        with pytest.raises(DataError, match=message):
            recommend(path)
    write(tmp_path / "in" / "i.parquet", history=[[]], user_id=["1"])
    with pytest.raises(DataError, match="all files need the same"):
        recommend(tmp_path / "in")
    for output, message in (
        (tmp_path / "in" / "out.parquet", "lies in the input"),
        (tmp_path / "empty", "is a folder"),
        (tmp_path / "text.parquet" / "out.parquet", "can't be written"),
    ):
        histories = tmp_path / "in" if output.parent == tmp_path / "in" else good
        with pytest.raises(DataError, match=message):
            recommend_file(str(checkpoint_folder), histories, output, OPTIONS)
    damaged = bytearray(good.read_bytes())
    damaged[100:400] = bytes(300)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match="can't be read to its end"):
        recommend(tmp_path / "damaged.parquet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 20}, "k is 20 and num_beams 10"),
        ({"k": 0}, "k is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"engine": "tensorrt"}, "allowed are transformers, vllm, ray"),
        ({"device": "gpu"}, "allowed are auto, cpu"),
        ({"exclude_column": "stock"}, "no column 'stock'"),
    ],
)
def test_bad_options_are_refused(recommend, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        recommend(write(tmp_path / "h.parquet", history=[["1"]]), **options)


def test_a_prompt_that_is_too_long_is_refused_before_the_job(tmp_path):
    catalog = make_catalog(30)
    folder = save_tiny_checkpoint(tmp_path / "long", catalog, config={"max_history": 10_000})
    path = write(tmp_path / "h.parquet", history=[["1"], ["1"] * 5_000])
    with pytest.raises(DataError, match="longest history makes a prompt of"):
        recommend_file(str(folder), path, tmp_path / "out.parquet", OPTIONS)


class TestGoingOn:
    @pytest.fixture
    def histories(self, tmp_path):
        return write(tmp_path / "h.parquet", user_id=[f"u{i}" for i in range(30)], history=random_histories(30))

    @pytest.fixture
    def stopped(self, checkpoint_folder, histories, tmp_path, monkeypatch):
        """An output whose job was cut off after two blocks."""
        output = tmp_path / "stopped.parquet"
        stop_after_two_blocks(monkeypatch, str(checkpoint_folder), histories, output, OPTIONS)
        return output

    def test_the_same_call_goes_on_and_then_does_nothing(self, checkpoint_folder, histories, stopped, tmp_path):
        whole = tmp_path / "whole.parquet"
        first = recommend_file(str(checkpoint_folder), histories, whole, OPTIONS)
        assert (first.num_users, first.num_resumed) == (30, 0)
        second = recommend_file(str(checkpoint_folder), histories, stopped, replace(OPTIONS, num_workers=3))
        assert (second.num_users, second.num_resumed) == (30, 14)
        assert stopped.read_bytes() == whole.read_bytes()
        assert not stopped.with_name("stopped.parquet.parts").exists()
        written = stopped.stat().st_mtime_ns
        again = recommend_file(str(checkpoint_folder), histories, stopped, OPTIONS)
        assert (again.num_resumed, again.seconds) == (30, 0.0)
        assert "done before" in str(again)
        assert stopped.stat().st_mtime_ns == written

    def test_other_arguments_are_refused_with_the_difference(self, checkpoint_folder, histories, stopped):
        with pytest.raises(DataError, match=r"beginning of another job, made with options.k 5 \(now 4\)"):
            recommend_file(str(checkpoint_folder), histories, stopped, replace(OPTIONS, k=4))
        recommend_file(str(checkpoint_folder), histories, stopped, OPTIONS)
        with pytest.raises(DataError, match=r"there already, made with options.include_seen False \(now True\)"):
            recommend_file(str(checkpoint_folder), histories, stopped, replace(OPTIONS, include_seen=True))
        write(histories, user_id=["u"], history=[["1"]])
        with pytest.raises(DataError, match=r"histories.num_rows 30 \(now 1\), histories.sha256"):
            recommend_file(str(checkpoint_folder), histories, stopped, OPTIONS)
        recommend_file(str(checkpoint_folder), histories, stopped, replace(OPTIONS, overwrite=True))
        assert pq.read_table(stopped)["user_id"].to_pylist() == ["u"]

    def test_starting_afresh_takes_no_part_of_another_job(self, checkpoint_folder, histories, stopped):
        options = replace(OPTIONS, include_seen=True, overwrite=True)
        assert recommend_file(str(checkpoint_folder), histories, stopped, options).num_resumed == 0

    def test_a_file_of_another_kind_is_not_replaced(self, checkpoint_folder, histories, tmp_path):
        (tmp_path / "notes.txt").write_text("keep me")
        with pytest.raises(DataError, match="was not made by llmrec recommend"):
            recommend_file(str(checkpoint_folder), histories, tmp_path / "notes.txt", OPTIONS)
        assert (tmp_path / "notes.txt").read_text() == "keep me"

    def test_a_broken_part_is_made_again(self, checkpoint_folder, histories, stopped):
        (stopped.with_name("stopped.parquet.parts") / "part-00000001.parquet").write_bytes(b"")
        assert recommend_file(str(checkpoint_folder), histories, stopped, OPTIONS).num_resumed == 7

    @pytest.mark.slow
    def test_a_killed_process_loses_no_finished_block(self, checkpoint_folder, tmp_path):
        histories = write(tmp_path / "h.parquet", history=random_histories(600))
        options = replace(OPTIONS, block_size=3, k=10)
        output, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
        parts = tmp_path / "killed.parquet.parts"
        command = [
            sys.executable,
            "-c",
            RUN,
            str(checkpoint_folder),
            str(histories),
            str(output),
            repr(asdict(options)),
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(parts.glob("part-*"))) < 10 and time.monotonic() < deadline:
            time.sleep(0.005)
        with pytest.raises(DataError, match="Another process works in"):
            recommend_file(str(checkpoint_folder), histories, output, options)
        process.kill()
        assert process.wait(timeout=30) == -signal.SIGKILL
        assert not output.exists()
        left = len(list(parts.glob("part-*")))
        assert 10 <= left < 200
        summary = recommend_file(str(checkpoint_folder), histories, output, options)
        assert summary.num_resumed == 3 * left
        recommend_file(str(checkpoint_folder), histories, whole, options)
        assert output.read_bytes() == whole.read_bytes()


def test_the_fingerprint_of_a_checkpoint_changes_with_its_weights(tmp_path):
    first = save_tiny_checkpoint(tmp_path / "a", make_catalog(30))
    before = checkpoint_fingerprint(first)
    weights = bytearray((first / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (first / "model.safetensors").write_bytes(weights)
    assert checkpoint_fingerprint(first) != before


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    row_group_size=st.integers(1, 12),
    reads=st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 25)), max_size=12),
)
def test_any_run_of_rows_is_read_in_any_order(tmp_path_factory, sizes, row_group_size, reads):
    folder, first = tmp_path_factory.mktemp("runs"), 0
    for number, size in enumerate(sizes):
        rows = [[str(row)] for row in range(first, first + size)]
        write(folder / f"{number}.parquet", row_group_size, history=rows)
        first += size
    reader = HistoryReader(open_histories(folder))
    for start, num_rows in reads:
        low = start % max(first, 1)
        high = min(low + num_rows, first)
        if low < high:
            table = reader.read(low, high - low)
            assert [row[0] for row in table["history"].to_pylist()] == [str(row) for row in range(low, high)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
class TestRay:
    @pytest.fixture(scope="class", autouse=True)
    def cluster(self):
        import ray  # noqa: PLC0415 -- seconds

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()

    def test_two_workers_go_on_and_give_what_one_process_gives(self, checkpoint_folder, tmp_path, monkeypatch):
        histories = write(tmp_path / "h.parquet", history=random_histories(60), exclude=[["3"]] * 60)
        here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
        recommend_file(str(checkpoint_folder), histories, here, OPTIONS)
        options = replace(OPTIONS, engine="ray", num_workers=2)
        stop_after_two_blocks(monkeypatch, str(checkpoint_folder), histories, there, options)
        # under a relative name, which means nothing to the workers
        monkeypatch.chdir(checkpoint_folder.parent)
        assert recommend_file(checkpoint_folder.name, histories, there, options).num_resumed == 14
        tables = [pq.read_table(path) for path in (here, there)]
        for name in ("user_id", "item_ids", "titles", "semantic_ids"):
            assert tables[0][name].equals(tables[1][name])
        scores = [table["scores"].combine_chunks().flatten().to_numpy() for table in tables]
        assert np.allclose(*scores, atol=1e-5)

    def test_a_worker_that_sees_another_checkpoint_stops_the_job(self, checkpoint_folder, tmp_path, monkeypatch):
        histories = write(tmp_path / "h.parquet", history=random_histories(5))
        monkeypatch.setattr("llmrec.serving.batch.recommend.checkpoint_fingerprint", lambda _: "0" * 16)
        options = replace(OPTIONS, engine="ray")
        with pytest.raises(RuntimeError, match=r"A Ray worker failed.*was started with 0000000000000000"):
            recommend_file(str(checkpoint_folder), histories, tmp_path / "out.parquet", options)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_gives_what_transformers_gives(checkpoint_folder, tmp_path):
    histories = write(tmp_path / "h.parquet", history=random_histories(20))
    outputs = [tmp_path / "transformers.parquet", tmp_path / "vllm.parquet"]
    for output in outputs:
        recommend_file(str(checkpoint_folder), histories, output, replace(OPTIONS, engine=output.stem))
    rows = [pq.read_table(output).to_pylist() for output in outputs]
    for ours, theirs in zip(*rows, strict=True):
        assert ours["item_ids"] == theirs["item_ids"]
        assert np.allclose(ours["scores"], theirs["scores"], atol=1e-3)
