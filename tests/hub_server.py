"""A local HTTP stand-in for the Hub: enough of its API to push a folder and to load it again, with nothing in between.

Run as a second process: ``python tests/hub_server.py`` prints its address and serves until it is terminated. Clients
set ``HF_ENDPOINT`` to that address, ``HF_HUB_DISABLE_XET=1`` and any ``HF_TOKEN``. Everything lives in memory.

What it checks, as the Hub does: writing needs a token, private repositories do not exist for others, large files must
hash to what was announced, a README's front matter must be YAML, and a commit may only name objects that arrived.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import yaml

LARGE_FILE_SUFFIXES = (".safetensors", ".parquet", ".png")
_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>model|dataset)s/{_REPO}"
_WEB = rf"/(?:(?P<kind>dataset)s/)?{_REPO}"


class File(NamedTuple):
    content: bytes
    large: bool

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.large else self.blob_id


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, File]) -> str:
        listing = json.dumps([len(self.commits), *((path, file.etag) for path, file in sorted(files.items()))])
        self.head = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[self.head] = files
        return self.head


@dataclass
class Hub:
    """Everything that the server holds."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    large_objects: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class HubError(Exception):
    """An answer other than success, with the Hub's error code where clients look for one."""

    def __init__(self, status: HTTPStatus, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Handler(BaseHTTPRequestHandler):
    """One request. ``hub`` is set on the subclass that ``serve`` makes."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(
            {
                rf"{_API}(?:/revision/(?P<revision>[^/]+))?": self._repo_info,
                rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?": self._tree,
                rf"{_WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": self._resolve,
            }
        )

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._answer(
            {
                r"/api/repos/create": self._create,
                r"/api/validate-yaml": self._validate_yaml,
                rf"{_API}/preupload/(?P<revision>[^/]+)": self._preupload,
                rf"{_API}/commit/(?P<revision>[^/]+)": self._commit,
                rf"{_WEB}\.git/info/lfs/objects/batch": self._lfs_batch,
                r"/lfs/verify": self._lfs_verify,
            }
        )

    def do_PUT(self) -> None:
        self._answer({r"/lfs/upload/(?P<oid>[0-9a-f]{64})": self._lfs_upload})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    # --- repositories

    def _create(self, **_: Any) -> None:
        self._require_token()
        wanted = json.loads(self._body)
        repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        url = f"{self._address}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        with self.hub.lock:
            if (kind, repo_id) in self.hub.repos:
                return self._send_json({"url": url, "error": "You already created this repo"}, HTTPStatus.CONFLICT)
            repo = Repo(private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
            repo.commit({})
            self.hub.repos[kind, repo_id] = repo
        return self._send_json({"url": url, "name": repo_id})

    def _repo_info(self, kind: str, repo: str, revision: str | None) -> None:
        found = self._repo(kind, repo)
        sha, files = self._files(found, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        self._send_json({"id": repo, "sha": sha, "private": found.private, "tags": [], "siblings": siblings})

    def _tree(self, kind: str, repo: str, revision: str, path: str | None) -> None:
        _, files = self._files(self._repo(kind, repo), revision)
        inside = {name: file for name, file in files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise HubError(HTTPStatus.NOT_FOUND, f"{path} does not exist", "EntryNotFound")
        entries = []
        for name, file in sorted(inside.items()):
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(file.content), "oid": file.blob_id}
            if file.large:
                entry["lfs"] = {"oid": file.etag, "size": len(file.content), "pointerSize": 134}
            entries.append(entry)
        self._send_json(entries)

    def _resolve(self, kind: str | None, repo: str, revision: str, path: str) -> None:
        sha, files = self._files(self._repo(kind or "model", repo), revision)
        if path not in files:
            raise HubError(HTTPStatus.NOT_FOUND, f"{path} does not exist", "EntryNotFound")
        file = files[path]
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": sha, "Content-Type": "application/octet-stream"}
        self._send(file.content, headers)

    # --- writing

    def _validate_yaml(self, **_: Any) -> None:
        content = json.loads(self._body)["content"]
        front_matter = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            yaml.safe_load(front_matter[1] if front_matter else "")
        except yaml.YAMLError as error:
            errors = [{"message": f"Invalid metadata in README.md: {error}"}]
            return self._send_json({"errors": errors, "warnings": []}, HTTPStatus.BAD_REQUEST)
        return self._send_json({"errors": [], "warnings": []})

    def _preupload(self, kind: str, repo: str, revision: str) -> None:
        self._require_token()
        _, files = self._files(self._repo(kind, repo), revision)
        answer = []
        for wanted in json.loads(self._body)["files"]:
            path = wanted["path"]
            entry = {"path": path, "shouldIgnore": False}
            entry["uploadMode"] = "lfs" if path.endswith(LARGE_FILE_SUFFIXES) else "regular"
            if path in files:
                entry["oid"] = files[path].etag
            answer.append(entry)
        self._send_json({"files": answer})

    def _lfs_batch(self, kind: str | None, repo: str) -> None:
        self._require_token()
        self._repo(kind or "model", repo)
        objects = []
        for wanted in json.loads(self._body)["objects"]:
            answer = dict(wanted)
            if wanted["oid"] not in self.hub.large_objects:
                answer["actions"] = {
                    "upload": {"href": f"{self._address}/lfs/upload/{wanted['oid']}"},
                    "verify": {"href": f"{self._address}/lfs/verify"},
                }
            objects.append(answer)
        self._send_json({"transfer": "basic", "objects": objects})

    def _lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self._body).hexdigest() != oid:
            raise HubError(HTTPStatus.BAD_REQUEST, "the content does not hash to its object id")
        with self.hub.lock:
            self.hub.large_objects[oid] = self._body
        self._send(b"", {})

    def _lfs_verify(self, **_: Any) -> None:
        wanted = json.loads(self._body)
        if len(self.hub.large_objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(HTTPStatus.NOT_FOUND, "the object did not arrive in full")
        self._send_json({})

    def _commit(self, kind: str, repo: str, revision: str) -> None:
        self._require_token()
        if revision != "main":
            raise HubError(HTTPStatus.NOT_FOUND, f"no branch {revision}", "RevisionNotFound")
        found = self._repo(kind, repo)
        with self.hub.lock:
            files = dict(found.commits[found.head])
            for line in self._body.splitlines():
                _apply(json.loads(line), files, self.hub.large_objects)
            sha = found.commit(files)
        prefix = "datasets/" if kind == "dataset" else ""
        url = f"{self._address}/{prefix}{repo}/commit/{sha}"
        self._send_json({"success": True, "commitOid": sha, "commitUrl": url})

    # --- plumbing

    def _answer(self, routes: dict[str, Callable[..., None]]) -> None:
        self._body = self._read_body()
        path = unquote(urlsplit(self.path).path)
        try:
            for pattern, route in routes.items():
                if match := re.fullmatch(pattern, path):
                    return route(**match.groupdict())
            raise HubError(HTTPStatus.NOT_FOUND, f"no such address: {path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
            self._send_json({"error": str(error)}, error.status, headers)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization", "").startswith("Bearer ")

    def _require_token(self) -> None:
        if not self._has_token():
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")

    def _repo(self, kind: str, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self._has_token()):
            raise HubError(HTTPStatus.NOT_FOUND, f"no repository {repo_id}", "RepoNotFound")
        return repo

    @staticmethod
    def _files(repo: Repo, revision: str | None) -> tuple[str, dict[str, File]]:
        sha = repo.head if revision in (None, "main") else str(revision)
        if sha not in repo.commits:
            raise HubError(HTTPStatus.NOT_FOUND, f"no revision {revision}", "RevisionNotFound")
        return sha, repo.commits[sha]

    @property
    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _send_json(
        self, content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def _send(self, content: bytes, headers: dict[str, str], status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _apply(operation: dict[str, Any], files: dict[str, File], large_objects: dict[str, bytes]) -> None:
    """One line of a commit, applied to ``files`` in place."""
    key, value = operation["key"], operation["value"]
    if key == "file":
        files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if value["oid"] not in large_objects:
            raise HubError(HTTPStatus.BAD_REQUEST, f"{value['path']} names an object that was not uploaded")
        files[value["path"]] = File(large_objects[value["oid"]], large=True)
    elif key == "deletedFile":
        files.pop(value["path"], None)
    elif key == "deletedFolder":
        for path in [path for path in files if path.startswith(f"{value['path'].rstrip('/')}/")]:
            del files[path]
    elif key != "header":
        raise HubError(HTTPStatus.BAD_REQUEST, f"a commit cannot hold {key}")


def serve() -> None:
    """Serve on a free port of this machine, after printing the address."""
    handler = type("HubHandler", (Handler,), {"hub": Hub()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve()
