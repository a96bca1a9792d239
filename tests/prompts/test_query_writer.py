"""Made queries: exact answers, no shared words, splits that share nothing, and a language model as the writer."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmrec.dataset.queries import same_query
from llmrec.prompts.described_needs import DescribedNeeds
from llmrec.prompts.keywords import words_of
from llmrec.prompts.made_queries import QueryConfig, make_queries
from llmrec.prompts.openai_query_writer import OpenAIQueryWriter
from llmrec.prompts.openai_writer import OpenAIWriter
from llmrec.prompts.paraphrases import GENERAL_BOOK, MOVIELENS_BOOK, read_paraphrases
from llmrec.prompts.query_items import QueryItem, QueryItems
from llmrec.prompts.query_needs import DIFFICULT_KINDS, KINDS, LESS_KNOWN, Need, QueryKind, catalogue_needs
from llmrec.prompts.query_phrasings import spelled_decade, spelled_year
from llmrec.prompts.query_writer import MAX_KEYWORDS, DeterministicQueryWriter
from llmrec.schema import DataError
from tests.prompts.chat_server import chat_server
from tests.prompts.films import film_items, product_items

CONFIG = QueryConfig(train=240, rl=60, valid=60, test=60, seed=3)


@pytest.fixture(scope="module")
def films() -> QueryItems:
    items = film_items()
    return QueryItems(items, {item_id: row % 40 for row, item_id in enumerate(items["item_id"].to_pylist())})


@pytest.fixture(scope="module")
def table(films: QueryItems) -> pa.Table:
    return make_queries(films, DeterministicQueryWriter(films, MOVIELENS_BOOK), CONFIG)


def meets(item: QueryItem, need: Need, films: QueryItems) -> bool:
    """One item against one need, straight from the definitions."""
    categories = set(item.text.categories)
    if need.years is not None and not (item.year is not None and need.years[0] <= item.year <= need.years[1]):
        return False
    if need.like:
        other = films[need.like]
        known = {entry.item_id: count for entry, count in zip(films.items, films.popularity or (), strict=True)}
        less_known = known[item.item_id] <= LESS_KNOWN * known[other.item_id]
        return (
            categories >= set(other.text.categories) and less_known and not {*item.title_words} & {*other.title_words}
        )
    return (
        categories >= set(need.wanted)
        and not categories & set(need.unwanted)
        and set(item.title_words) >= set(need.title_words)
        and need.brand in ("", item.text.brand)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_items_of_a_need_are_exactly_those_that_meet_it(films: QueryItems, kind: QueryKind) -> None:
    needs = list(catalogue_needs(films, kind, 10))
    assert len(needs) > 10
    for need in needs[:: max(1, len(needs) // 150)]:
        assert need.item_ids == tuple(item.item_id for item in films.items if meets(item, need, films)), need
        assert 1 <= len(need.item_ids) <= 10


def test_difficult_queries_share_no_word_with_any_of_their_items(films: QueryItems, table: pa.Table) -> None:
    raw = {item["item_id"]: item for item in film_items().to_pylist()}
    counts: Counter[str] = Counter()
    for row in table.to_pylist():
        if row["kind"] in DIFFICULT_KINDS:
            counts[row["kind"]] += 1
            for item in (raw[item_id] for item_id in row["item_ids"]):
                texts = [item["title"], item["brand"], *item["categories"]]
                assert not set(words_of(row["query"])) & set(words_of(" ".join(texts))), row
    assert set(counts) == set(DIFFICULT_KINDS)
    assert films.items


def test_splits_share_no_query_no_pair_and_no_set_of_items(table: pa.Table) -> None:
    split_of: dict[Any, str] = {}
    for row in table.to_pylist():
        keys = [same_query(row["query"]), (row["query"], *row["item_ids"])]
        if row["kind"] != "title":  # a name's words may also belong to other items' names
            keys.append(tuple(row["item_ids"]))
        for key in keys:
            assert split_of.setdefault(key, row["split"]) == row["split"], row
    texts = [same_query(text) for text in table["query"].to_pylist()]
    assert len(set(texts)) == len(texts)
    assert len(set(table["query_id"].to_pylist())) == table.num_rows


def test_kinds_are_balanced_and_a_second_time_gives_the_same(films: QueryItems, table: pa.Table) -> None:
    counts = Counter(row["kind"] for row in table.select(["kind", "split"]).to_pylist() if row["split"] == "train")
    assert set(counts) == set(KINDS)
    assert max(counts.values()) <= CONFIG.train / len(KINDS)
    again = make_queries(films, DeterministicQueryWriter(films, MOVIELENS_BOOK), CONFIG)
    assert again.equals(table)
    other = QueryConfig(train=240, rl=60, valid=60, test=60, seed=4)
    assert not make_queries(films, DeterministicQueryWriter(films, MOVIELENS_BOOK), other).equals(table)


def test_keywords_are_the_items_own_words_which_the_query_lacks(films: QueryItems, table: pa.Table) -> None:
    for row in table.to_pylist():
        found = [films[item_id] for item_id in row["item_ids"]]
        assert len(row["keywords"]) <= MAX_KEYWORDS
        assert not set(words_of(" ".join(row["keywords"]))) & set(words_of(row["query"])), row
        for keyword in row["keywords"]:
            decade = keyword[:3] if keyword.endswith("0s") else "none"
            assert all(set(words_of(keyword)) <= item.words or str(item.year)[:3] == decade for item in found), row
        assert row["keywords"] or row["kind"] in ("title", "attributes", "alternative"), row


def test_queries_that_are_taken_are_not_made_and_prohibited_words_are_no_keywords(
    films: QueryItems, table: pa.Table
) -> None:
    taken = [text.upper() for text in table["query"].to_pylist()[::3]]
    made = make_queries(films, DeterministicQueryWriter(films, MOVIELENS_BOOK), CONFIG, ["Drama"], taken)
    assert not {same_query(text) for text in taken} & {same_query(text) for text in made["query"].to_pylist()}
    assert "Drama" in {keyword for keywords in table["keywords"].to_pylist() for keyword in keywords}
    assert "Drama" not in {keyword for keywords in made["keywords"].to_pylist() for keyword in keywords}


@pytest.mark.parametrize("kind", DIFFICULT_KINDS)
def test_descriptions_are_asked_for_by_words_that_titles_lack(kind: QueryKind) -> None:
    items = QueryItems(product_items())
    needs = list(DescribedNeeds(items, 10).needs(kind))
    assert needs
    for need, written in zip(needs, DeterministicQueryWriter(items, GENERAL_BOOK).queries(needs), strict=True):
        about = items[need.about]
        assert set(need.features) <= set(words_of(about.text.description)) - about.words
        assert need.item_ids == tuple(item.item_id for item in items.items if item.title_words == about.title_words)
        for word in need.lacks:
            assert word not in words_of(about.text.description)
        for query in written:
            words = set(words_of(query.query))
            assert not words & about.words
            assert kind == "alternative" or set(need.features) <= words


def test_years_in_words() -> None:
    spelled = {1995: "nineteen ninety-five", 1980: "nineteen eighty", 1907: "nineteen oh seven", 2000: "two thousand"}
    assert {year: spelled_year(year) for year in spelled} == spelled
    assert spelled_year(2014) == "twenty fourteen"
    assert spelled_year(1900) == "nineteen hundred"
    assert [spelled_decade(year) for year in (1968, 2003, 2017)] == ["nineteen sixties", "two thousands", "twenty tens"]


def test_the_book_covers_movielens_and_reads_yours(tmp_path: Path) -> None:
    assert len(MOVIELENS_BOOK.phrases) == 18
    assert set(MOVIELENS_BOOK.phrases) <= set(MOVIELENS_BOOK.hints)
    path = tmp_path / "book.json"
    path.write_text(json.dumps({"phrases": {"Desks": ["work tables", " {braces} "]}}))
    assert read_paraphrases(path).phrases == {"Desks": ("work tables", "{braces}")}
    for content, problem in (
        ("[]", "must hold one object"),
        ('{"phrases": {"Desks": "tables"}}', "'phrases: Desks' holds 'tables'"),
        ('{"phrases": {"Desks": []}}', "a list of one text or more"),
        ('{"other": {}}', "must hold one object"),
        ("{", "can't be read as JSON"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=problem):
            read_paraphrases(path)


def test_options_out_of_range_and_catalogues_without_needs_are_refused() -> None:
    for options, problem in (
        ({"kinds": ("riddle",)}, "riddle; allowed are title"),
        ({"train": 0, "rl": 0, "valid": 0, "test": 0}, "one of them 1 or more"),
        ({"max_targets": 0}, "max_targets is 0"),
    ):
        with pytest.raises(ValueError, match=problem):
            QueryConfig(**options)
    products = QueryItems(product_items().slice(0, 2))
    writer, config = DeterministicQueryWriter(products, GENERAL_BOOK), QueryConfig(kinds=("knowledge",))
    with pytest.raises(DataError, match="No query could be made"):
        make_queries(products, writer, config)


def test_a_language_model_words_the_difficult_ones_and_what_shares_a_word_is_left_out(
    films: QueryItems, tmp_path: Path
) -> None:
    needs = list(catalogue_needs(films, "negation", 10))[:6]
    titles = {item_id: films[item_id].title_words for item_id in films.rows}

    def answer(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        question = body["messages"][-1]["content"]
        leaking = f"Title: {films[needs[2].item_ids[0]].text.title}\n" in question
        query = " ".join(titles[needs[2].item_ids[0]]) if leaking else f"zzz the thing {sum(map(ord, question))}"
        return 200, json.dumps({"query": query, "keywords": "Zap, Zap, <emb>, zzz, d, e, f"}), {}

    with chat_server(answer) as server:
        model = OpenAIWriter(server.base_url, "tiny", tmp_path / "answers.jsonl", concurrency=1)
        writer = OpenAIQueryWriter(films, model, DeterministicQueryWriter(films, MOVIELENS_BOOK))
        written = list(writer.queries(needs))
        assert len(written) == len(needs)
        assert written[2] == ()
        assert written[0][0].query.startswith("zzz the thing")
        asked = len(server.bodies)
        assert list(writer.queries(needs)) == written
        assert len(server.bodies) == asked  # paid for once
        easy = list(catalogue_needs(films, "title", 10))[:3]
        assert all(len(queries) == 1 for queries in writer.queries(easy))
        assert len(server.bodies) == asked
        assert list(writer.queries([])) == []
    assert all("is not " in question for question in server.questions)


def test_the_endpoints_queries_are_cleaned_and_asked_for_no_more_than_needed(films: QueryItems, tmp_path: Path) -> None:
    def answer(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:  # noqa: ARG001
        return 200, json.dumps({"query": f"zzz number{number}", "keywords": "Zap, zap, <emb>, zzz"}), {}

    with chat_server(answer) as server:
        model = OpenAIWriter(server.base_url, "tiny", tmp_path / "answers.jsonl", concurrency=2)
        writer = OpenAIQueryWriter(films, model, DeterministicQueryWriter(films, MOVIELENS_BOOK))
        config = QueryConfig(kinds=("question",), train=20, rl=0, valid=0, test=0)
        made = make_queries(films, writer, config)
    assert made.num_rows == 20
    assert 20 <= len(server.bodies) <= 20 + 6
    assert set(map(tuple, made["keywords"].to_pylist())) == {("Zap", "<emb>")}
