"""Schemathesis against the server's own OpenAPI document: whatever it makes up, nothing undocumented comes back."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llmrec.serving.checkpoint import open_served
from tests.serving.running import running
from tests.serving.tiny_lrem import save_tiny_lrem

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    ("POST", "/v1/recommendations"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/catalog/reload"),
    ("POST", "/v1/catalog/rollback"),
    ("GET", "/v1/catalog"),
    ("GET", "/v1/items"),
    ("GET", "/v1/items/{item_id}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id}"),
    ("GET", "/metrics"),
    ("GET", "/health"),
]
#: Of an LREM checkpoint, besides those that all have.
SEARCH_OPERATIONS = [("POST", "/v1/search"), ("POST", "/v1/embeddings")]
NUM_SHARED = len([path for _, path in OPERATIONS if "completions" not in path and "recommendations" not in path])


@pytest.fixture(scope="module")
def document(checkpoint):
    with running(checkpoint, max_body_bytes=20_000, max_text_tokens=20, admin_key="boss") as http:
        yield schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")


@pytest.fixture(scope="module")
def search_document(tmp_path_factory):
    checkpoint = open_served(str(save_tiny_lrem(tmp_path_factory.mktemp("serving") / "tiny")))
    with running(checkpoint, max_body_bytes=20_000, admin_key="boss") as http:
        yield schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_those_of_the_document(document, method, path):
    assert len(list(document.get_all_operations())) == len(OPERATIONS)
    check_operation(document, method, path)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), SEARCH_OPERATIONS)
def test_search_answers_are_those_of_the_document(search_document, method, path):
    assert len(list(search_document.get_all_operations())) == NUM_SHARED + len(SEARCH_OPERATIONS)
    check_operation(search_document, method, path)


def check_operation(document, method, path):
    modes = list(schemathesis.GenerationMode)  # bodies that fit the document, and those that do not

    @hypothesis.given(hypothesis.strategies.one_of([document[path][method].as_strategy(mode) for mode in modes]))
    @hypothesis.settings(
        max_examples=50, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True
    )
    def check(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"  # past the 404
        case.call_and_validate(headers={"Authorization": "Bearer boss"}, checks=CHECKS, timeout=30)

    check()
