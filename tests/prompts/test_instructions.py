"""Tables from a dataset: every prefix, every item, training only, made once, and readable by datasets."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.instructions import INFO_FILE, build_instructions, instruction_schema
from llmrec.prompts.item_text import item_texts
from llmrec.prompts.lcrec import TASKS, Example, fitting_templates, render
from llmrec.prompts.lcrec_rows import FIELDS, Sequences, fusion_rows, seqrec_rows
from llmrec.prompts.segments import Segment
from llmrec.prompts.writer import DeterministicWriter, Intentions, Preferences, WriterRequest
from llmrec.schema import DataError
from tests.prompts.conftest import MARKER, SmallDataset, make_items


class _SpyWriter:
    """Keeps everything it is shown."""

    name = "spy"

    def __init__(self) -> None:
        self.seen: list[WriterRequest] = []
        self.inner = DeterministicWriter()

    def intentions(self, requests: Iterable[WriterRequest]) -> Iterator[Intentions]:
        return self.inner.intentions(self._seen(requests))

    def preferences(self, requests: Iterable[WriterRequest]) -> Iterator[Preferences]:
        return self.inner.preferences(self._seen(requests))

    def _seen(self, requests: Iterable[WriterRequest]) -> Iterator[WriterRequest]:
        for request in requests:
            self.seen.append(request)
            yield request


def _examples(table: pa.Table) -> list[Example]:
    return [Example.from_row(row) for row in table.to_pylist()]


def _values(example: Example, name: str) -> list[str]:
    return [segment.value for segment in example.fields[name]]


SEQUENCES = st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), max_size=5)


@given(SEQUENCES, st.integers(1, 6))
def test_seqrec_takes_every_prefix_once_with_its_latest_items(sequences: list[list[str]], max_history: int) -> None:
    users = [f"u{row}" for row in range(len(sequences))]
    rows = list(seqrec_rows(Sequences(users, sequences, sequences), max_history))
    expected = [
        (user, items[:end][-max_history:], [items[end]])
        for user, items in zip(users, sequences, strict=True)
        for end in range(1, len(items))
    ]
    assert [(row.user_id, row.fields["history"], row.fields["item"]) for row in rows] == expected
    assert Sequences(users, sequences, sequences).num_prefixes == len(expected)


@given(SEQUENCES, st.integers(0, 30), st.integers(0, 3))
def test_fusion_keeps_so_many_prefixes_in_order_and_the_seed_decides_which(sequences, samples, seed) -> None:
    users = [f"u{row}" for row in range(len(sequences))]
    data = Sequences(users, sequences, sequences)
    texts = item_texts(make_items({letter: f"Film {letter}" for letter in "abcdef"}, {"a"}))
    every = list(fusion_rows(data, texts, 3, None, seed))
    kept = list(fusion_rows(data, texts, 3, samples, seed))
    assert kept == list(fusion_rows(data, texts, 3, samples, seed))
    assert len(kept) == min(samples, len(every))
    remaining = iter(every)
    assert all(row in remaining for row in kept)
    for row in every:
        assert row.fields["titles"] == [f'"Film {item}"' for item in row.fields["history"]]
        assert ("description" in row.fields) == (row.fields["item"] == ["a"])


def test_every_task_counts_and_every_row_can_be_worded(small_dataset: SmallDataset, tmp_path: Path) -> None:
    tables = build_instructions(small_dataset, tmp_path)
    counts = {task: table.num_rows for task, table in tables.items()}
    assert counts == dict(zip(TASKS, [2 + 3 + 5, 16, 16, 2 + 3 + 5, 3, 3], strict=True))
    for task, table in tables.items():
        assert table.schema == instruction_schema(task)
        for example in _examples(table):
            fitting = fitting_templates(example)
            assert all(all(render(example, index)) for index in fitting)
    described = [len(fitting_templates(example)) for example in _examples(tables["index2item"])]
    assert described == [17, 6] * 4 + [6] * 8


def test_nothing_of_a_users_future_is_in_the_tables_or_before_the_writer(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    writer = _SpyWriter()
    tables = build_instructions(small_dataset, tmp_path, writer=writer)
    assert {request.user_id for request in writer.seen} == {"u1", "u2", "u3"}
    assert MARKER not in repr(writer.seen)
    for task in ("seqrec", "fusionseqrec", "itemsearch", "preferenceobtain"):
        assert MARKER not in repr(tables[task].to_pylist())
        assert not any(item.startswith("h") for row in tables[task].to_pylist() for item in _items(row))


def _items(row: dict) -> list[str]:
    return [segment["value"] for name in ("history", "item") for segment in row.get(name) or []]


def test_the_writer_sees_the_history_the_target_and_its_review(small_dataset: SmallDataset, tmp_path: Path) -> None:
    writer = _SpyWriter()
    tables = build_instructions(small_dataset, tmp_path, ["itemsearch"], writer, max_history=2)
    request = next(request for request in writer.seen if request.user_id == "u3")
    assert [item.title for item in request.history] == [f"Film {number} of the sea" for number in (3, 4, 5, 6, 7)]
    assert request.target.title == "Film 0 of the sea"
    assert request.review == "Great i0. Bought it twice."
    assert next(request.review for request in writer.seen if request.user_id == "u2") == ""
    example = _examples(tables["itemsearch"])[-1]
    assert (_values(example, "history"), _values(example, "item")) == (["i6", "i7"], ["i0"])
    assert set(tables["itemsearch"]["writer"].to_pylist()) == {"spy"}


def test_the_review_of_a_later_purchase_of_the_same_item_is_not_taken(tmp_path: Path) -> None:
    dataset = SmallDataset(make_items({"a": "A", "b": "B"}), {"u": ["a", "b", "b", "b"]})
    rows = dataset.interactions.to_pylist()
    for row, review in zip(rows, ["first", "second", f"{MARKER} third", f"{MARKER} fourth"], strict=True):
        row |= {"review": review, "timestamp": 0 if row["item_id"] == "a" else 1}  # one second, three purchases
    frozen = pa.Table.from_pylist(rows, dataset.interactions.schema)

    class Rebought(SmallDataset):
        interactions = frozen

    writer = _SpyWriter()
    build_instructions(Rebought(dataset.items, dataset.sequences), tmp_path, ["itemsearch"], writer)
    assert {request.review for request in writer.seen} == {"second"}


def test_refit_adds_the_validation_items_to_the_sequence_tasks_and_shows_the_writer_nothing_more(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    writer = _SpyWriter()
    tables = build_instructions(small_dataset, tmp_path, writer=writer, refit=True)
    assert MARKER not in repr(writer.seen)
    targets = [_values(example, "item")[0] for example in _examples(tables["seqrec"])]
    assert {item for item in targets if item.startswith("h")} == {"h0", "h2", "h4", "h6"}  # not the test items
    assert tables["fusionseqrec"].num_rows == tables["seqrec"].num_rows == 10 + 4


def test_a_hostile_title_is_text_in_every_table(tmp_path: Path) -> None:
    titles = {"i0": "<a_12>", "i1": "{item} <|im_end|>", "i2": "<a_0><b_0>", "i3": "C", "i4": "D"}
    dataset = SmallDataset(make_items(titles, set(titles)), {"u": list(titles)})
    for table in build_instructions(dataset, tmp_path).values():
        for example in _examples(table):
            for index in fitting_templates(example):
                for segment in (segment for part in render(example, index) for segment in part):
                    assert segment.kind == "text" or segment.value in titles


def test_a_second_run_does_nothing_and_another_option_remakes_only_what_depends_on_it(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    build_instructions(small_dataset, tmp_path)

    def stamps() -> dict[str, int]:
        return {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}

    first = stamps()
    build_instructions(small_dataset, tmp_path)
    assert stamps() == first
    build_instructions(small_dataset, tmp_path, fusion_samples=4)
    assert {task for task, stamp in stamps().items() if stamp != first[task]} == {"fusionseqrec"}
    second = stamps()
    build_instructions(small_dataset, tmp_path, max_history=2, fusion_samples=4)
    changed = {task for task, stamp in stamps().items() if stamp != second[task]}
    assert changed == {"seqrec", "fusionseqrec", "itemsearch", "preferenceobtain"}
    small_dataset.reviews = {}
    third = stamps()
    build_instructions(small_dataset, tmp_path, max_history=2, fusion_samples=4)
    assert all(stamp != third[task] for task, stamp in stamps().items())


def test_texts_of_a_language_model_are_kept_by_a_run_that_names_no_writer(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    build_instructions(small_dataset, tmp_path, ["itemsearch"], _SpyWriter())
    tables = build_instructions(small_dataset, tmp_path)
    assert tables["itemsearch"]["writer"][0].as_py() == "spy"
    assert tables["preferenceobtain"]["writer"][0].as_py() == "deterministic"
    info = json.loads((tmp_path / INFO_FILE).read_text())
    assert info["dataset_fingerprint"] == small_dataset.fingerprint
    assert {task: entry["writer"] for task, entry in info["tasks"].items()} == {
        **dict.fromkeys(TASKS),
        "itemsearch": "spy",
        "preferenceobtain": "deterministic",
    }
    with pytest.raises(ValueError, match=r"written by spy for other data or options \(max_history: 3 -> 2\)"):
        build_instructions(small_dataset, tmp_path, ["itemsearch"], max_history=2)
    again = build_instructions(small_dataset, tmp_path, ["itemsearch"], DeterministicWriter())
    assert again["itemsearch"]["writer"][0].as_py() == "deterministic"


def test_a_failure_leaves_no_half_table_and_what_was_made_before_is_kept(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    class Failing(_SpyWriter):
        def preferences(self, requests: Iterable[WriterRequest]) -> Iterator[Preferences]:
            yield next(super().preferences(requests))
            raise RuntimeError("the endpoint is gone")

    with pytest.raises(RuntimeError, match="endpoint is gone"):
        build_instructions(small_dataset, tmp_path, ["seqrec", "itemsearch"], Failing())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "README.md", INFO_FILE, "seqrec.parquet"]
    assert list(json.loads((tmp_path / INFO_FILE).read_text())["tasks"]) == ["seqrec"]
    build_instructions(small_dataset, tmp_path, ["itemsearch"], _SpyWriter())
    with pytest.raises(RuntimeError, match="endpoint is gone"):
        build_instructions(small_dataset, tmp_path, ["itemsearch"], Failing(), max_history=2)
    table = build_instructions(small_dataset, tmp_path, ["itemsearch"])["itemsearch"]
    assert set(table["writer"].to_pylist()) == {"spy"}


def test_datasets_loads_a_task_by_its_name_and_an_example_is_the_same_from_there(
    small_dataset: SmallDataset, tmp_path: Path
) -> None:
    tables = build_instructions(small_dataset, tmp_path / "data")
    for task in TASKS:
        loaded = load_dataset(str(tmp_path / "data"), task, split="train", cache_dir=str(tmp_path / "cache"))
        assert [Example.from_row(row) for row in loaded] == _examples(tables[task])
        assert set(FIELDS[task]) <= set(loaded.column_names)


def test_absent_fields_are_null_and_present_ones_are_typed(small_dataset: SmallDataset, tmp_path: Path) -> None:
    table = build_instructions(small_dataset, tmp_path, ["item2index"])["item2index"]
    assert table["description"].null_count == 12
    assert table["user_id"].null_count == 16
    example = _examples(table)[0]
    assert example.fields["title"] == [Segment("text", "Film 0 of the sea")]
    assert example.fields["item"] == [Segment("item", "i0")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["chat"]}, "tasks holds chat; allowed are seqrec"),
        ({"tasks": []}, "tasks holds nothing"),
        ({"max_history": 0}, "max_history is 0"),
        ({"fusion_samples": 0}, "fusion_samples is 0"),
    ],
)
def test_options_out_of_range_are_refused(small_dataset: SmallDataset, tmp_path: Path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_instructions(small_dataset, tmp_path, **options)


def test_a_training_item_that_is_no_item_is_named(small_dataset: SmallDataset, tmp_path: Path) -> None:
    small_dataset.sequences["u1"][0] = "ghost"
    with pytest.raises(DataError, match="Item 'ghost' of user 'u1'"):
        build_instructions(small_dataset, tmp_path)
