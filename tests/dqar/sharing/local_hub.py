"""A Hugging Face Hub on this machine: the part of its HTTP interface that a small model needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_token_of_the_test"


class LocalHub:
    """Repositories by name: the files of each commit, the last commit being ``main``."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.sizes: dict[str, int] = {}
        """Sizes in bytes that the server states in place of the true ones, by file."""
        self.requests: list[str] = []
        self.endpoint = ""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add files to a repository; return the commit's hash."""
        history = self.commits.setdefault(name, {})
        whole = (list(history.values())[-1] if history else {}) | files
        sha = hashlib.sha1(repr((len(history), sorted(whole))).encode()).hexdigest()
        history[sha] = whole
        return sha

    def resolved(self, name: str, revision: str) -> str | None:
        """The hash of a branch or a commit; None if there is none."""
        history = self.commits.get(name, {})
        if revision == "main" and history:
            return list(history)[-1]
        return revision if revision in history else None


@contextmanager
def serving() -> Iterator[LocalHub]:
    """Serve a Hub at its ``endpoint`` inside the block."""
    hub = LocalHub()

    class Bound(Handler):
        store = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Handler(BaseHTTPRequestHandler):
    """Answers of the Hub; a request for anything else is answered with 404."""

    store: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.store.requests.append(f"{self.command} {self.path}")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

    def answer_missing(self, code: str) -> None:
        self.answer(404, b"", X_Error_Code=code, X_Error_Message=code)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"", X_Error_Message="Invalid credentials")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            exists = name in self.store.commits
            self.store.commits.setdefault(name, {})
            return self.answer_json(
                {"url": f"{self.store.endpoint}/{name}"}, 409 if exists else 200
            )
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular"} for one in files]
            return self.answer_json({"files": [one | {"shouldIgnore": False} for one in modes]})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            contents = {one["path"]: base64.b64decode(one["content"]) for one in files}
            sha = self.store.commit(found[1], contents)
            url = f"{self.store.endpoint}/{found[1]}/commit/{sha}"
            return self.answer_json({"commitUrl": url, "commitOid": sha, "success": True})
        return self.answer_missing("EntryNotFound")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self.answer_about(found[1], found[2] or "main")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self.answer_json(self.tree(found[1], found[2]))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.answer_file(found[1], found[2], found[3])
        return self.answer_missing("EntryNotFound")

    do_HEAD = do_GET

    def answer_about(self, name: str, revision: str) -> None:
        if name not in self.store.commits:
            return self.answer_missing("RepoNotFound")
        if (sha := self.store.resolved(name, revision)) is None:
            return self.answer_missing("RevisionNotFound")
        files = self.store.commits[name][sha]
        siblings = [
            {"rfilename": file, "size": self.store.sizes.get(file, len(content))}
            for file, content in files.items()
        ]
        self.answer_json({"id": name, "sha": sha, "siblings": siblings, "private": False})

    def tree(self, name: str, revision: str) -> list[dict[str, Any]]:
        sha = self.store.resolved(name, revision)
        files = self.store.commits[name][sha or ""]
        return [
            {"type": "file", "path": file, "size": len(content), "oid": _tag_of(content)}
            for file, content in files.items()
        ]

    def answer_file(self, name: str, revision: str, file: str) -> None:
        sha = self.store.resolved(name, revision)
        if sha is None or file not in self.store.commits[name][sha]:
            return self.answer_missing("EntryNotFound")
        content = self.store.commits[name][sha][file]
        self.answer(200, content, ETag=f'"{_tag_of(content)}"', X_Repo_Commit=sha)


def _tag_of(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
