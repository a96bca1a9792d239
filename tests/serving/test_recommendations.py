"""/v1/recommendations and /v1/items against offline evaluation and a ranking of the whole catalogue."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrec.serving.http.catalogs import code_text
from tests.serving.running import error_of, running

ROUTE = "/v1/recommendations"


@pytest.fixture(scope="module")
def http(checkpoint):
    with running(checkpoint) as client:
        yield client


def ask(http, user, **fields):
    answer = http.post(ROUTE, json={"users": [user], "num_beams": 60, "exclude_seen": False} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]


def ids(listed):
    return [item["item_id"] for item in listed["items"]]


def test_lists_are_those_of_offline_evaluation(http, checkpoint, catalog):
    histories = [[4, 9, 2], [57], list(range(30)), [59, 0]]
    offline = checkpoint.recommender().recommend(
        checkpoint.load_model(), histories, 10, exclude=histories, progress=False
    )
    users = [{"user_id": f"u{row}", "history": [str(item) for item in items]} for row, items in enumerate(histories)]
    answer = http.post(ROUTE, json={"model": "tiny", "users": users}).json()
    assert answer["catalog"] == catalog.fingerprint
    assert [one["user_id"] for one in answer["data"]] == ["u0", "u1", "u2", "u3"]
    for listed, expected in zip(answer["data"], offline, strict=True):
        assert ids(listed) == [catalog.item_ids[row] for row in expected]
        assert [item["score"] for item in listed["items"]] == sorted(
            (i["score"] for i in listed["items"]), reverse=True
        )
        for item in listed["items"]:
            row = catalog.item_index[item["item_id"]]
            assert item["title"] == catalog.titles[row]
            assert item["semantic_id"] == catalog.semantic_ids[row].tolist()


def test_users_without_a_name_and_new_users(http):
    answer = http.post(ROUTE, json={"users": [{"history": []}], "k": 3}).json()["data"][0]
    assert answer.keys() == {"items", "skipped"}
    assert len(answer["items"]) == 3


def test_titles_are_matched_exactly_and_never_read_as_tokens(http):
    by_id = ask(http, {"history": ["57", "3"]}, k=10)
    assert ask(http, {"history_titles": ["<a_1><b_2>", "Film 3 of the sea"]}, k=10) == by_id
    error = error_of(http.post(ROUTE, json={"users": [{"history": ["<a_1><b_2>"]}]}), 422)
    assert error["code"] == "unknown_items"
    error = error_of(http.post(ROUTE, json={"users": [{"history_titles": ["<a_0><b_5><c_0>"]}]}), 422)
    assert "'<a_0><b_5><c_0>'" in error["message"]
    assert error_of(http.post(ROUTE, json={"users": [{"history_titles": ["film 3 of the sea"]}]}), 422)


def test_a_title_that_items_share_is_refused_with_their_ids(http):
    error = error_of(http.post(ROUTE, json={"users": [{"history_titles": ["Film 0 of the sea"]}]}), 422)
    assert error["code"] == "ambiguous_title"
    assert "'0', '59'" in error["message"]


def test_unknown_items_are_named_or_skipped_and_listed(http):
    unknown = [f"x{number}" for number in range(12)]
    user = {"history": ["1", *unknown, "2"], "rules": {"exclude": ["gone", "5"]}}
    message = error_of(http.post(ROUTE, json={"users": [user]}), 422)["message"]
    assert "'x9' and 2 more" in message
    assert "users.0.history" in message
    listed = ask(http, user, unknown_items="skip", k=10)
    assert listed["skipped"] == [*unknown, "gone"]
    assert ids(listed) == ids(ask(http, {"history": ["1", "2"], "rules": {"exclude": ["5"]}}, k=10))
    titles = {"history_titles": ["Film 1 of the sea", "No film", "Film 2 of the sea"]}
    assert ask(http, titles, unknown_items="skip", k=10)["skipped"] == ["No film"]
    assert error_of(http.post(ROUTE, json={"users": [{"history": []}], "allow": ["x"], "unknown_items": "skip"}), 422)


def test_the_whole_history_is_left_out_also_beyond_what_the_model_sees(http, checkpoint):
    history = [str(item) for item in range(40)]
    assert len(history) > checkpoint.max_history
    listed = ask(http, {"history": history}, exclude_seen=True, k=60)
    assert sorted(ids(listed)) == sorted(str(item) for item in range(40, 60))
    assert len(ids(ask(http, {"history": history}, k=60))) == 60
    assert ids(ask(http, {"history": history[-20:]}, k=60)) == ids(ask(http, {"history": history}, k=60))


def test_a_users_own_rules_take_the_place_of_the_requests(http):
    users = [{"history": ["1"]}, {"history": ["1"], "rules": {"exclude": ["7"]}}, {"history": ["1"], "rules": {}}]
    body = {"users": users, "allow": ["7", "8"], "num_beams": 60, "k": 60, "exclude_seen": False}
    first, second, third = (ids(listed) for listed in http.post(ROUTE, json=body).json()["data"])
    assert sorted(first) == ["7", "8"]
    assert len(second) == 59
    assert "7" not in second
    assert len(third) == 60


codes = st.lists(st.integers(0, 7), min_size=1, max_size=2)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rules_leave_the_ranking_of_the_whole_catalogue_without_what_they_rule_out(http, catalog, data):
    some = st.lists(st.sampled_from(catalog.item_ids), max_size=30, unique=True)
    rules = {"exclude": data.draw(some), "allow": data.draw(st.none() | some.filter(len))}
    prefixes = {tuple(row[:depth]) for row in catalog.semantic_ids.tolist() for depth in (1, 2)}
    prefix = st.sampled_from(sorted(prefixes)).map(list)
    rules |= {
        "require_prefix": data.draw(st.just([]) | prefix),
        "forbid_prefixes": data.draw(st.lists(prefix, max_size=3)),
    }
    whole = ids(ask(http, {"history": ["1", "2"]}, k=60))

    def allowed(item_id):
        semantic_id = catalog.semantic_ids[catalog.item_index[item_id]].tolist()
        starts = [semantic_id[: len(one)] == one for one in rules["forbid_prefixes"]]
        required = rules["require_prefix"]
        return (
            item_id not in rules["exclude"]
            and (rules["allow"] is None or item_id in rules["allow"])
            and semantic_id[: len(required)] == required
            and not any(starts)
        )

    expected = [item_id for item_id in whole if allowed(item_id)]
    assert ids(ask(http, {"history": ["1", "2"]}, k=60, **rules)) == expected


def test_the_trace_is_a_tree_that_ends_at_the_list(http, catalog):
    listed = ask(http, {"history": ["1", "2"]}, k=5, num_beams=5, trace=True)
    levels = listed["trace"]["levels"]
    assert len(levels) == catalog.num_codebooks
    for depth, level in enumerate(levels, 1):
        parents = [beam["codes"] for beam in levels[depth - 2] if beam["survives"]] if depth > 1 else [[]]
        for beam in level:
            assert len(beam["codes"]) == depth
            assert beam["text"] == code_text(beam["codes"])
            assert beam["codes"][:-1] in parents
            matches = (catalog.semantic_ids[:, :depth] == beam["codes"]).all(axis=1)
            assert beam["num_items"] == matches.sum() > 0
    ends = sorted((beam for beam in levels[-1] if beam["survives"]), key=lambda beam: -beam["score"])
    assert [beam["codes"] for beam in ends] == [item["semantic_id"] for item in listed["items"]]


def test_one_bad_user_refuses_the_request_before_anything_runs(http):
    before = http.get("/metrics").text
    good, bad = {"history": ["1"]}, {"history": ["1"], "rules": {"require_prefix": [7, 7, 99]}}
    assert "[7, 7, 99]" in error_of(http.post(ROUTE, json={"users": [good, bad]}), 422)["message"]
    line = next(line for line in before.splitlines() if line.startswith("llmrec_lists_total"))
    assert line in http.get("/metrics").text


@pytest.mark.parametrize("user", [{}, {"history": ["1"], "history_titles": ["x"]}])
def test_a_history_is_given_in_one_form(http, user):
    error = error_of(http.post(ROUTE, json={"users": [user]}), 422)
    assert "one of the two" in error["message"]


def test_items(http, catalog):
    answer = http.get("/v1/items").json()
    assert answer["catalog"] == catalog.fingerprint
    assert [item["item_id"] for item in answer["data"]] == [str(row) for row in range(20)]
    found = http.get("/v1/items", params={"search": "SEA  film 1", "limit": 3}).json()["data"]
    assert [item["item_id"] for item in found] == ["1", "10", "11"]
    assert http.get("/v1/items", params={"search": "film 1", "limit": 100}).json()["data"][-1]["item_id"] == "51"
    assert http.get("/v1/items", params={"search": "(.*"}).json()["data"] == []
    (token_like,) = http.get("/v1/items", params={"search": "<A_1>"}).json()["data"]
    assert token_like == http.get("/v1/items/57").json()
    assert token_like["text"] == code_text(catalog.semantic_ids[57])
    error_of(http.get("/v1/items/600"), 404)
    error_of(http.get("/v1/items/"), 404)
    error_of(http.get("/v1/items/a/b"), 404)
    error_of(http.get("/v1/items", params={"limit": 101}), 422)


def test_beam_trees_are_for_a_few_users(http):
    body = {"users": [{"history": []}] * 9, "k": 1}
    assert http.post("/v1/recommendations", json=body).status_code == 200
    assert "limit is 8" in error_of(http.post("/v1/recommendations", json=body | {"trace": True}), 422)["message"]
