"""The paper's rules for keywords."""

from hypothesis import given
from hypothesis import strategies as st

from llmrec.prompts.keywords import clean_keywords, join_keywords, split_keywords, words_of


def test_each_rule_takes_its_keywords_out_and_the_order_stays() -> None:
    keywords = ["Warm coat", " wool ", "WOOL", "", ",;", "cheap", "red coat", "Parka,"]
    assert clean_keywords("a red dress", keywords, prohibited=["Cheap"]) == ("Warm coat", "wool", "Parka")


def test_another_brand_goes_only_where_the_query_names_one() -> None:
    brands = ["Acme", "Bolt Works", "Cog"]
    keywords = ["charger", "Bolt Works charger kit", "cog", "bolt cutter"]
    assert clean_keywords("acme phone", keywords, brands=brands) == ("charger", "bolt cutter")
    assert clean_keywords("a phone", keywords, brands=brands) == tuple(keywords)
    assert clean_keywords("phone of bolt works", ["Acme", "plug"], brands=brands) == ("plug",)


def test_text_that_looks_like_a_control_token_stays_text() -> None:
    assert clean_keywords("q", ["<emb>", "</think> a"]) == ("<emb>", "</think> a")


@given(st.text(max_size=30), st.lists(st.text(max_size=12), max_size=8))
def test_what_is_left_has_words_shares_none_with_the_query_and_survives_a_second_time(
    query: str, keywords: list[str]
) -> None:
    kept = clean_keywords(query, keywords)
    assert all(words_of(keyword) and not set(words_of(keyword)) & set(words_of(query)) for keyword in kept)
    assert len({" ".join(words_of(keyword)) for keyword in kept}) == len(kept)
    assert clean_keywords(query, kept) == kept
    assert split_keywords(join_keywords(kept)) == kept
