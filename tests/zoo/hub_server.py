"""A small Hub on loopback: as much of its protocol as publishing and loading a model takes.

Repositories live in memory. Files above a kilobyte and all safetensors travel as large files (LFS), as on the Hub.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ERRORS = {"RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}


@dataclass
class Entry:
    """One file of one commit."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """Git's hash of the content."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass
class Repository:
    """Every commit's hash and files, in order, beginning with an empty one."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Entry]] = field(default_factory=lambda: {"0" * 40: {}})

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


class Refused(Exception):
    """An answer with an error code of the Hub."""


class Hub:
    """The state of the server and the log of its requests; tests may reach in and break things."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failure: int | None = None
        """A status that every request is answered with."""
        self.page: bytes | None = None
        """What every request is answered with, as by the portal of a public network."""

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, Entry]]:
        """The hash and the files of a revision."""
        repository = self.repository(repo)
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            raise Refused("RevisionNotFound")
        return commit, repository.commits[commit]

    def repository(self, repo: str) -> Repository:
        if repo not in self.repositories:
            raise Refused("RepoNotFound")
        if self.repositories[repo].gated:
            raise Refused("GatedRepo")
        return self.repositories[repo]


class Handler(BaseHTTPRequestHandler):
    """Every request of the protocol is one row of ROUTES: method, path, what answers it."""

    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def create(self) -> None:
        body = json.loads(self.body())
        name = f"{body.get('organization', 'me')}/{body['name']}"
        known = name in self.hub.repositories
        private = body.get("private") or body.get("visibility") == "private"
        self.hub.repositories.setdefault(name, Repository(private=bool(private)))
        self.answer({"url": f"{self.address}/{name}", "name": name, "id": name}, 409 if known else 200)

    def validate_yaml(self) -> None:
        content = json.loads(self.body())["content"]
        front = content.split("---\n")[1]
        try:
            yaml.safe_load(front)
            self.answer({"errors": [], "warnings": []})
        except yaml.YAMLError as error:
            self.answer({"errors": [{"message": str(error)}], "warnings": []}, 400)

    def preupload(self, repo: str, revision: str) -> None:
        _, present = self.hub.files(repo, revision)
        files = []
        for file in json.loads(self.body())["files"]:
            large = file["size"] > 1024 or file["path"].endswith(".safetensors")
            entry = present.get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": entry.etag if entry else None,
                }
            )
        self.answer({"files": files})

    def lfs_batch(self, repo: str) -> None:
        self.hub.repository(repo)
        objects = []
        for item in json.loads(self.body())["objects"]:
            if item["oid"] not in self.hub.blobs:
                item["actions"] = {"upload": {"href": f"{self.address}/blobs/{item['oid']}"}}
            objects.append(item)
        self.answer({"transfer": "basic", "objects": objects})

    def put_blob(self, oid: str) -> None:
        content = self.body()
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer({"error": "the content does not have this SHA-256"}, 422)
        self.hub.blobs[oid] = content
        self.answer({})

    def commit(self, repo: str, revision: str) -> None:
        _, present = self.hub.files(repo, revision)
        files = dict(present)
        body = self.body()
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Entry(base64.b64decode(value["content"]), large=False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = Entry(self.hub.blobs[value["oid"]], large=True)
        repository = self.hub.repository(repo)
        commit = hashlib.sha1(body + repository.head.encode()).hexdigest()
        repository.commits[commit] = files
        url = f"{self.address}/{repo}/commit/{commit}"
        self.answer({"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": ""})

    def info(self, repo: str, revision: str = "main") -> None:
        commit, files = self.hub.files(repo, revision)
        siblings = [{"rfilename": path} for path in files]
        self.answer({"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def tree(self, repo: str, revision: str) -> None:
        _, files = self.hub.files(repo, revision)
        rows = []
        for path, entry in files.items():
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(entry.content), "oid": entry.oid}
            if entry.large:
                row["lfs"] = {"oid": entry.sha256, "size": len(entry.content), "pointerSize": 130}
            rows.append(row)
        self.answer(rows)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit, files = self.hub.files(repo, revision)
        if path not in files:
            raise Refused("EntryNotFound")
        entry = files[path]
        # What was stored is served: a blob that went bad keeps the name, and so the ETag, of what it should be.
        content = self.hub.blobs.get(entry.etag, entry.content)
        self.answer(content, headers={"ETag": f'"{entry.etag}"', "X-Repo-Commit": commit})

    ROUTES = [
        ("POST", r"/api/repos/create", create),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", preupload),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", lfs_batch),
        ("PUT", r"/blobs/(\w+)", put_blob),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", commit),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/(.+)", tree),
        ("GET", r"/api/models/([^/]+/[^/]+)/revision/(.+)", info),
        ("GET", r"/api/models/([^/]+/[^/]+)", info),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
        ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
    ]

    @property
    def address(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}"

    def body(self) -> bytes:
        """The request's body, of known length or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failure is not None:
            self.body()
            return self.answer({"error": "out of order"}, self.hub.failure)
        if self.hub.page is not None:
            self.body()
            return self.answer(self.hub.page)
        for method, pattern, handle in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                try:
                    return handle(self, *match.groups())
                except Refused as refused:
                    code = str(refused)
                    return self.answer({"error": code}, ERRORS[code], {"X-Error-Code": code})
        self.answer({"error": f"no route for {self.command} {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = route


@contextmanager
def serve(endpoint: str) -> Iterator[Hub]:
    """A fresh Hub at an address of this machine, until the block ends."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", int(endpoint.rsplit(":", 1)[1])), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
