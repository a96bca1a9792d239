"""The door to queries: from a dataset folder, from pairs, from a search set; repeated, refused, mined."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmrec.baselines import BM25, document_texts
from llmrec.dataset import QueryDataset
from llmrec.dataset.queries import same_query
from llmrec.evaluation import SearchEvaluator
from llmrec.prompts.query_mining import with_keywords
from llmrec.recipe.queries import QueryArguments, open_queries
from llmrec.schema import DataError
from tests.data_prep.test_scripts import load_script
from tests.prompts.chat_server import chat_server
from tests.prompts.films import film_items, product_items

SIZES = ["--train", "80", "--rl", "20", "--valid", "20", "--test", "20"]


@pytest.fixture
def script() -> ModuleType:
    return load_script("queries")


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """A prepared dataset of films, in which everybody has seen everything."""
    folder = tmp_path / "raw"
    folder.mkdir()
    films = film_items(40)
    rows = "".join(f"{row['item_id']}\t{row['title']}\n" for row in films.to_pylist())
    (folder / "films.tsv").write_text(f"item_id\ttitle\n{rows}")
    with (folder / "films.jsonl").open("w") as file:
        for row in films.to_pylist():
            file.write(json.dumps(row) + "\n")
    events = [f"u{user},f{item},{1_700_000_000 + item}" for user in range(6) for item in range(40) if item >= user * 5]
    (folder / "views.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
    arguments = ["--interactions", str(folder / "views.csv"), "--items", str(folder / "films.jsonl"), "--k_core", "1"]
    load_script("interactions").main([*arguments, "--output_dir", str(tmp_path / "films")])
    return tmp_path / "films"


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_datasets_queries_are_made_once(
    script: ModuleType, dataset_dir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--dataset_dir", str(dataset_dir), *SIZES]
    script.main([*arguments, "--show", "1"])
    printed = capsys.readouterr().out
    assert "train: 67 queries (14 title, " in printed
    assert "\nquestion: " in printed
    folder = dataset_dir.with_name("films_queries")
    dataset = QueryDataset.load(folder)
    assert dataset.info["writer"] == "deterministic"
    assert dataset.counts["train"]["all"] > 60
    before = stamps(folder)
    script.main(arguments)
    assert stamps(folder) == before
    with caplog.at_level("INFO"):
        script.main([*arguments, "--seed", "7"])
    assert "other inputs or options (options): it is made again" in caplog.text
    assert stamps(folder) != before


def test_mining_keeps_what_only_the_keywords_find(script: ModuleType, dataset_dir: Path, tmp_path: Path) -> None:
    arguments = ["--dataset_dir", str(dataset_dir), *SIZES]
    script.main([*arguments, "--output_dir", str(tmp_path / "all")])
    script.main([*arguments, "--output_dir", str(tmp_path / "mined"), "--mining", "bm25", "--mining_k", "5"])
    every, mined = QueryDataset.load(tmp_path / "all"), QueryDataset.load(tmp_path / "mined")
    assert mined.queries("test").equals(every.queries("test"))
    assert 0 < mined.info["mined"]["kept"] < every.counts["train"]["all"] + every.counts["rl"]["all"]
    search = BM25(document_texts(mined.items)).search
    ids = mined.items["item_id"].to_pylist()
    targets = {row["query_id"]: set(row["item_ids"]) for row in every.table.to_pylist()}
    for row in mined.queries("train").to_pylist():
        alone, together = search([row["query"], with_keywords(row["query"], row["keywords"])], 5)
        expected = [ids[item] for item in together if item >= 0 and item not in alone]
        assert row["item_ids"] == [item for item in expected if item in targets[row["query_id"]]]


def test_a_language_model_writes_through_the_door(script: ModuleType, dataset_dir: Path, tmp_path: Path) -> None:
    def answer(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        number = sum(map(ord, body["messages"][-1]["content"]))
        return 200, json.dumps({"query": f"zzz{number}", "keywords": "Zap, zonk"}), {}

    arguments = ["--dataset_dir", str(dataset_dir), *SIZES, "--kinds", "question", "negation"]
    with chat_server(answer) as server:
        arguments += [
            "--writer_base_url",
            server.base_url,
            "--writer_model",
            "tiny",
            "--output_dir",
            str(tmp_path / "o"),
        ]
        script.main(arguments)
        asked = len(server.bodies)
        script.main([*arguments, "--prohibited", "zonk"])  # other options: made again, from the answers it has
        assert len(server.bodies) == asked
    dataset = QueryDataset.load(tmp_path / "o")
    assert dataset.info["writer"] == "openai:tiny"
    assert set(map(tuple, dataset.table["keywords"].to_pylist())) == {("Zap",)}
    with pytest.raises(ValueError, match="go together"):
        script.main([*arguments[:2], "--writer_model", "tiny"])


def write_pairs(folder: Path, pairs: str) -> list[str]:
    (folder / "things.csv").write_text("item_id,title,categories\n1,Oak <emb> desk,Desks\n2,Lamp,Light|Desks\n")
    (folder / "searches.csv").write_text(pairs)
    sources = ["--items", str(folder / "things.csv"), "--pairs", str(folder / "searches.csv")]
    return [*sources, "--output_dir", str(folder / "own")]


def test_your_own_pairs_are_kept_as_they_are_each_query_in_one_split(script: ModuleType, tmp_path: Path) -> None:
    lines = [f"desk {number},{item},{grade}" for number in range(40) for item, grade in ((1, 2), (2, number % 2))]
    script.main(write_pairs(tmp_path, "\n".join(["query,item_id,grade", "a <emb> desk,1,1", *lines]) + "\n"))
    dataset = QueryDataset.load(tmp_path / "own")
    rows = dataset.table.to_pylist()
    assert rows[0]["query"] == "a <emb> desk"
    assert dataset.items["title"].to_pylist()[0] == "Oak <emb> desk"
    assert len(rows) == 41
    assert [row["grades"] for row in rows[1:3]] == [[2, 0], [2, 1]]
    assert {row["kind"] for row in rows} == {"own"}
    assert sum(bool(counts["all"]) for counts in dataset.counts.values()) >= 3
    assert dataset.info["writer"] is None


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ("query,item\nq,1\n", "has no column 'item_id'; it has query, item"),
        ("query,item_id\nq,1\nq,3\n", r"line 3 names item '3', which .*things\.csv has no row for"),
        ("query,item_id\nq,1\nQ,1\n", "line 3 repeats the pair of 'Q' and '1'"),
        ("query,item_id\nq,1\n,2\n", "column 'query' is empty in 1 of 2 rows, the first in line 3"),
        ("query,item_id,grade\nq,1,good\n", "'good' in line 2, which is no number"),
        ("query,item_id,grade\nq,1,1.5\n", r"line 2 has the grade 1\.5"),
        ("query,item_id,grade\nq,1,0\n", "no relevant item"),
    ],
)
def test_what_is_wrong_with_pairs_is_said_with_its_line(
    script: ModuleType, tmp_path: Path, pairs: str, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        script.main(write_pairs(tmp_path, pairs))
    assert not (tmp_path / "own").exists()


def write_search(folder: Path, queries: list[dict[str, Any]]) -> list[str]:
    folder.mkdir()
    rows = [{**row, "category": "Things"} for row in product_items().to_pylist()]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    return ["--search", str(folder), "--output_dir", str(folder.with_name("made")), *SIZES]


def test_real_queries_are_the_test_and_none_of_them_is_trained_on(script: ModuleType, tmp_path: Path) -> None:
    probe = write_search(tmp_path / "first", [{"query": "zzz", "relevant": [{"item_id": "p1", "label": 1}]}])
    script.main(probe)
    made = QueryDataset.load(tmp_path / "made").queries("train")["query"].to_pylist()
    judged = {"relevant": [{"item_id": "p1", "label": 3}, {"item_id": "p2", "label": 1}], "judged_irrelevant": ["p3"]}
    real = [{"query_id": f"r{row}", "query": text.upper(), **judged} for row, text in enumerate(made[:30])]
    arguments = write_search(tmp_path / "second", real)
    script.main(arguments)
    dataset = QueryDataset.load(tmp_path / "made")
    test = dataset.queries("test").to_pylist()
    assert [row["query"] for row in test] == [text.upper() for text in made[:30]]
    assert test[0]["item_ids"] == ["p1", "p2", "p3"]
    assert test[0]["grades"] == [3, 1, 0]
    assert {row["kind"] for row in test} == {"real"}
    others = {same_query(row["query"]) for row in dataset.table.to_pylist() if row["split"] != "test"}
    assert len(others) > 30
    assert not others & {same_query(text) for text in made[:30]}


def test_a_search_set_of_another_form_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 has judgements of another form.*label"):
        script.main(write_search(tmp_path / "a", [{"query": "q", "relevant": [{"item_id": "p1"}]}]))
    with pytest.raises(DataError, match="names items"):
        script.main(write_search(tmp_path / "b", [{"query": "q", "relevant": [{"item_id": "x", "label": 1}]}]))


def test_sources_and_places_that_do_not_fit_are_refused(script: ModuleType, dataset_dir: Path, tmp_path: Path) -> None:
    for arguments, problem in (
        ([], "Give one source"),
        (["--items", "a.csv"], "Give one source"),
        (["--dataset_dir", str(dataset_dir), "--search", "b"], "Give one source"),
        (["--search", "b"], "Give --output_dir"),
    ):
        with pytest.raises(ValueError, match=problem):
            script.main(arguments)
    with pytest.raises(DataError, match="is no folder of queries: name another --output_dir"):
        script.main(["--dataset_dir", str(dataset_dir), "--output_dir", str(dataset_dir), *SIZES])
    with pytest.raises(FileNotFoundError, match="not a prepared dataset"):
        script.main(["--dataset_dir", str(tmp_path)])


def test_an_unfinished_folder_is_made_again_and_a_damaged_one_refused(script: ModuleType, dataset_dir: Path) -> None:
    arguments = ["--dataset_dir", str(dataset_dir), *SIZES]
    script.main(arguments)
    folder = dataset_dir.with_name("films_queries")
    fingerprint = QueryDataset.load(folder).fingerprint
    (folder / "queries.json").unlink()  # what a kill between the tables and the record leaves
    script.main(arguments)
    assert QueryDataset.load(folder).fingerprint == fingerprint
    (folder / "queries.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        script.main(arguments)


def test_a_recipe_opens_what_is_there(script: ModuleType, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"Make one with data_prep/queries\.py"):
        open_queries(QueryArguments(str(dataset_dir.with_name("films_queries"))))
    script.main(["--dataset_dir", str(dataset_dir), *SIZES])
    assert open_queries(QueryArguments(str(dataset_dir.with_name("films_queries")))).counts["test"]["all"]
    monkeypatch.chdir(dataset_dir.parent)
    Path("data").mkdir()
    dataset_dir.rename(Path("data/ml-100k"))
    made = open_queries(QueryArguments())  # the default: made of the default dataset
    assert made.folder == Path("data/ml-100k_queries")
    before = stamps(made.folder)
    assert open_queries(QueryArguments()).fingerprint == made.fingerprint
    assert stamps(made.folder) == before


def test_help_teaches(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    printed = capsys.readouterr().out
    assert "python data_prep/queries.py --dataset_dir data/ml-100k" in printed
    assert "(default: 8000)" in printed


@pytest.mark.slow
def test_real_electronics_queries_and_what_words_find_for_them(
    script: ModuleType, llmrec_data: Path, tmp_path: Path
) -> None:
    source = llmrec_data / "search_electronics"
    if not source.is_dir():
        pytest.skip(f"no search set at {source}")
    small = ["--train", "20", "--rl", "0", "--valid", "0", "--kinds", "title", "question"]
    script.main(["--search", str(source), "--output_dir", str(tmp_path / "e"), *small])
    dataset = QueryDataset.load(tmp_path / "e")
    assert dataset.items.num_rows == 19_406
    evaluator = SearchEvaluator(dataset)
    assert len(evaluator.queries) == 56
    report = evaluator.report(BM25(document_texts(dataset.items)).search(evaluator.queries, 100))
    assert report["all"]["ndcg@10"] == pytest.approx(0.739, abs=0.005)
    assert report["all"]["judged@10"] == pytest.approx(0.69, abs=0.01)
