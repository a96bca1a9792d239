"""With keys set, nothing but /health and the page's static files answers without one."""

import pytest

from llmrec.serving.http.settings import ServerSettings
from tests.serving.running import ToldEngine, error_of, running

ADMIN_ROUTES = ["/v1/catalog/reload", "/v1/catalog/rollback"]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def http(checkpoint):
    with running(checkpoint, ToldEngine(checkpoint), api_keys=("first", "second"), admin_key="boss") as client:
        yield client


def test_every_route_of_the_openapi_document_needs_a_key(http):
    document = http.get("/openapi.json", headers=bearer("first")).json()
    routes = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert len(routes) >= 12
    for method, path in [*routes, ("get", "/openapi.json"), ("get", "/no/such/route"), ("get", "/pagex")]:
        operation = document["paths"].get(path, {}).get(method, {})
        assert not operation or ("security" in operation) == (path != "/health")
        if path == "/health":
            continue
        response = http.request(method, path.replace("{", "").replace("}", ""))
        assert error_of(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert http.request(method, path, headers=bearer("second")).status_code != 401
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/").status_code == 200
    assert http.get("/page/page.js").status_code == 200


@pytest.mark.parametrize(
    "header", ["first", "Bearer", "Bearer firs", "Bearer first second", "Basic first", "Bearer f\xefrst", ""]
)
def test_wrong_keys(http, header):
    error_of(http.get("/v1/models", headers={"Authorization": header.encode("latin-1")}), 401)


def test_keys_in_their_usual_forms(http):
    for header in ("Bearer first", "bearer second", "Bearer  first"):
        assert http.get("/v1/models", headers={"Authorization": header}).status_code == 200


@pytest.mark.parametrize("path", ADMIN_ROUTES)
def test_changing_the_catalogue_needs_a_key_of_its_own(http, path):
    error_of(http.post(path), 401)
    error_of(http.post(path, headers=bearer("other")), 401)
    assert error_of(http.post(path, headers=bearer("first")), 403)["code"] == "admin_key_required"
    assert http.post(path, headers=bearer("boss")).status_code in (200, 422)
    assert http.get("/v1/catalog", headers=bearer("boss")).status_code == 200


@pytest.mark.parametrize("path", ADMIN_ROUTES)
def test_without_keys_the_catalogue_cannot_be_changed(checkpoint, path):
    with running(checkpoint, ToldEngine(checkpoint)) as http:
        assert http.get("/v1/models").status_code == 200
        for headers in ({}, bearer("anything")):
            assert "LLMREC_ADMIN_KEY" in error_of(http.post(path, headers=headers), 403)["message"]
    with running(checkpoint, ToldEngine(checkpoint), admin_key="boss") as http:
        assert http.get("/v1/models").status_code == 200
        error_of(http.post(path), 401)
        error_of(http.post(path, headers=bearer("other")), 403)
        assert http.post(path, headers=bearer("boss")).status_code in (200, 422)


def test_settings_refuse_keys_that_cannot_work():
    for keys in ({"api_keys": ("",)}, {"api_keys": ("a b",)}, {"admin_key": "schl\xfcssel"}):
        with pytest.raises(ValueError, match="empty, or holds white space"):
            ServerSettings(**keys)
    with pytest.raises(ValueError, match="one of its own"):
        ServerSettings(api_keys=("a",), admin_key="a")
    with pytest.raises(ValueError, match="max_k is 0"):
        ServerSettings(max_k=0)
    assert ServerSettings().is_loopback
    assert not ServerSettings(host="0.0.0.0").is_loopback
