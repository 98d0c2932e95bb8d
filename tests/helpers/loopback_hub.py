# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A small Hugging Face Hub on loopback, which fails when a test asks it to.

The unmodified client (huggingface_hub 2.4, without Xet) pushes and pulls models and Spaces through it: repositories
with commits, branches, tags and pull requests; LFS objects at signed addresses of another origin; tokens, private
repositories, and the real Hub's error headers. Everything lives in memory, in threads of this process.

    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        fault = hub.fail("PUT", "^/store/", status=500)     # the first upload of an LFS object fails
        ...                                                 # run a client with HF_ENDPOINT=hub.endpoint
        assert fault.count == 1
        assert hub.repos["owner/model"].files("main")

Paths in `hub.requests` and in the patterns of `hub.fail` are those of the request: quoted, without the query.
"""

import base64
import hashlib
import hmac
import json
import math
import re
import secrets
import select
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

import yaml


LFS_PATTERNS = ("*.safetensors", "*.bin", "*.png", "*.pt")
LFS_THRESHOLD = 10 * 2**20
LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause cc cc-by-4.0 cc-by-nc-4.0
cc-by-nc-sa-4.0 cc-by-sa-4.0 cc0-1.0 creativeml-openrail-m gemma gpl-2.0 gpl-3.0 isc lgpl-3.0 llama2 llama3 mit mpl-2.0
openrail openrail++ other unknown unlicense wtfpl zlib
"""

# Model cards: a list stands for any number of its one item, a mapping names required keys; at the top all are optional
_METRIC = {"type": str, "value": float}
_RESULT = {"task": {"type": str}, "dataset": {"type": str, "name": str}, "metrics": [_METRIC]}
CARD_SHAPE = {
    "tags": [str],
    "datasets": [str],
    "library_name": str,
    "pipeline_tag": str,
    "model-index": [{"name": str, "results": [_RESULT]}],
}

CARD_HEAD = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]*^---\s*?$", re.DOTALL | re.MULTILINE)
SDKS = ("gradio", "docker", "static")
SPACE_SHAPE = {"title": str, "sdk": str, "sdk_version": str, "python_version": str, "app_file": str, "models": [str]}

ID = r"(?P<repo_id>(?:spaces/)?[\w.-]+(?:/[\w.-]+)?)"
API = rf"/api/(?:models/|(?=spaces/)){ID}"  # a Space is kept under its name with "spaces/" before it
REV = r"(?P<rev>refs/[^/]+/[^/]+|[^/]+)"


@dataclass(frozen=True)
class Blob:
    data: bytes = field(repr=False)
    is_lfs: bool = False

    @cached_property
    def oid(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.is_lfs else _git_oid(self.data)

    def entry(self, path: str) -> dict[str, Any]:
        """How the tree API lists this file: git itself holds only a pointer to an LFS object."""
        described = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.is_lfs:
            version = "version https://git-lfs.github.com/spec/v1"
            pointer = f"{version}\noid sha256:{self.oid}\nsize {len(self.data)}\n".encode()
            lfs = {"oid": self.oid, "size": len(self.data), "pointerSize": len(pointer)}
            described |= {"oid": _git_oid(pointer), "lfs": lfs}
        return described


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    message: str
    files: Mapping[str, Blob] = field(repr=False)


class Repo:
    """One repository. `refs` holds branches, tags (named in `tags`) and `refs/pr/N`."""

    def __init__(self, repo_id: str, private: bool, lock: threading.RLock) -> None:
        self.id, self.private, self._lock = repo_id, private, lock
        self.refs: dict[str, str] = {}
        self.tags: set[str] = set()
        self.commits: dict[str, Commit] = {}
        self.objects: dict[str, bytes] = {}  # LFS storage, by sha256
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
        self.append({".gitattributes": Blob(attributes.encode())}, "initial commit", None, "main")

    def files(self, rev: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.commits[self.refs.get(rev, rev)].files.items()}

    def append(self, files: Mapping[str, Blob], message: str, parent: str | None, ref: str) -> str:
        # The count stands for git's time of commit: the same tree committed twice is two commits
        tree = sorted((path, blob.oid) for path, blob in files.items())
        sha = hashlib.sha1(repr((self.id, len(self.commits), parent, message, tree)).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, message, dict(files))
        self.refs[ref] = sha
        return sha

    def commit(self, files: Mapping[str, bytes], message: str = "update", lfs: Iterable[str] = LFS_PATTERNS) -> str:
        """Add or replace files on the main branch directly, without HTTP."""
        patterns = tuple(lfs)
        blobs = {path: Blob(data, any(fnmatch(path, p) for p in patterns)) for path, data in files.items()}
        with self._lock:
            self.objects |= {blob.oid: blob.data for blob in blobs.values() if blob.is_lfs}
            head = self.refs["main"]
            return self.append({**self.commits[head].files, **blobs}, message, head, "main")


@dataclass(frozen=True)
class User:
    name: str
    role: str


@dataclass
class Request:
    method: str
    path: str
    token: str | None  # on the storage: the whole Authorization header, which should not be there
    origin: str  # "hub" or "storage"
    status: int | None = None  # None until answered, and when the connection was cut instead


@dataclass(eq=False)
class Fault:
    """A fault that `LoopbackHub.fail` has arranged; exactly one kind is set."""

    method: str
    pattern: str
    times: int | None
    status: int | None = None
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    truncate: int | None = None
    lose_answer: bool = False
    hold: threading.Event | None = None
    delay: float | None = None
    count: int = 0
    hit: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        kinds = (self.status, self.drop_after, self.truncate, self.lose_answer or None, self.hold, self.delay)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("a fault has exactly one of status, drop_after, truncate, lose_answer, hold, delay")

    def strikes(self, method: str, path: str) -> bool:
        left = self.times is None or self.count < self.times
        return left and method == self.method and re.search(self.pattern, path) is not None

    def clear(self) -> None:
        self.times = 0


@dataclass
class Answer:
    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error as the Hub reports it: in the headers for HEAD requests, and in JSON."""

    def __init__(self, status: int, message: str, code: str | None = None, /, **extra: Any) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = _json(status, {"error": message, **extra}, headers)


class _Cut(Exception):
    """Raised to end the connection without an answer, or in the middle of one."""


def _json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _mismatches(value: Any, shape: Any, where: str) -> list[str]:
    """Messages for metadata that do not have the documented form."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f'"{where}" must be an array']
        return [m for i, item in enumerate(value) for m in _mismatches(item, shape[0], f"{where}[{i}]")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f'"{where}" must be an object']
        missing = [f'"{where}.{key}" is required' for key in shape if key not in value]
        return missing + [m for k in shape if k in value for m in _mismatches(value[k], shape[k], f"{where}.{k}")]
    if shape is str:
        return [] if isinstance(value, str) else [f'"{where}" must be a string']
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return [] if is_number else [f'"{where}" must be a number']


def check_card(content: str, is_space: bool = False) -> tuple[list[str], list[str]]:
    """The errors and warnings of the Hub for a README.md."""
    shape = SPACE_SHAPE if is_space else CARD_SHAPE
    block = CARD_HEAD.match(content)
    if block is None or not block[1].strip():
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"], []
    if not isinstance(metadata, dict):
        return ["the YAML metadata must be an object"], []
    errors = [m for key in shape if key in metadata for m in _mismatches(metadata[key], shape[key], key)]
    if is_space and metadata.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of [{", ".join(SDKS)}]')
    if len(metadata.get("short_description", "")) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    if "license" in metadata and metadata["license"] not in LICENSES.split():
        errors.append(f'"license" must be one of [{", ".join(LICENSES.split())}]')
    return errors, []


def _apply(repo: Repo, files: dict[str, Blob], key: str, change: Mapping[str, Any]) -> None:
    """Apply one operation of a commit."""
    path = change["path"]
    if {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
        raise Refusal(400, f"Invalid path: {path}")
    if key == "file":
        files[path] = Blob(base64.b64decode(change["content"]))
    elif key == "lfsFile":
        data = repo.objects.get(change["oid"])
        if data is None or len(data) != change.get("size", len(data)):
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
        files[path] = Blob(data, is_lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        is_meant = path.__eq__ if key == "deletedFile" else (lambda p: p.startswith(path.rstrip("/") + "/"))
        gone = [p for p in files if is_meant(p)]
        if not gone:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for p in gone:
            del files[p]
    else:
        raise Refusal(400, f"Unknown operation: {key}")


def _entries(files: Mapping[str, Blob]) -> dict[str, dict[str, Any]]:
    """Files and folders as the tree API lists them, by path."""
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents} - {"."}
    entries = {p: {"type": "directory", "path": p, "size": 0, "oid": _git_oid(p.encode())} for p in folders}
    return entries | {path: blob.entry(path) for path, blob in files.items()}


_ROUTES: list[tuple[str, str, re.Pattern[str], Callable[..., Answer]]] = []


def _route(method: str, pattern: str, origin: str = "hub") -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    def register(action: Callable[..., Answer]) -> Callable[..., Answer]:
        _ROUTES.append((origin, method, re.compile(pattern), action))
        return action

    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    # ---- the HTTP side: requests in, answers out, faults between ----

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `hub.requests` instead."""

    def _serve(self) -> None:
        hub, origin, url = self.server.hub, self.server.origin, urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        sent = self.headers.get("Authorization")
        token = sent.removeprefix("Bearer ") if sent and origin == "hub" else sent
        self.request_log = Request(self.command, url.path, token, origin)
        fault = hub.arrive(self.request_log)
        try:
            self.body = self._receive(fault)
            if fault and fault.status is not None:
                body = fault.body or {"error": HTTPStatus(fault.status).phrase}
                answer = _json(fault.status, body, fault.headers)
            else:
                answer = self._work()
            self._send(answer, fault)
        except _Cut:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _receive(self, fault: Fault | None) -> bytes:
        if "Transfer-Encoding" in self.headers:  # the client always knows its lengths
            raise _Cut
        length = int(self.headers.get("Content-Length", 0))
        if fault is None:
            return self._read(length)
        start = self._read(length // 2 if fault.hold else min(fault.drop_after or 0, length))
        fault.hit.set()
        if fault.drop_after is not None:
            raise self._reset()
        if fault.hold:
            self._hold(fault.hold)
        elif fault.delay and self.server.hub.stopping.wait(fault.delay):
            raise _Cut
        return start + self._read(length - len(start))

    def _hold(self, until: threading.Event) -> None:
        while not until.wait(0.02):
            if self.server.hub.stopping.is_set():
                raise _Cut
        # What a killed client had sent may lie complete in the kernel's buffers: it must not count as an upload
        poll = select.poll()
        poll.register(self.connection, getattr(select, "POLLRDHUP", select.POLLHUP))  # the first is Linux only
        if poll.poll(0):
            raise _Cut

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size) if size else b""
        if len(data) < size:  # the client is gone
            raise _Cut
        return data

    def _reset(self) -> _Cut:
        """Make closing send RST, so that the client does not take the end for a regular one."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return _Cut()

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        if fault and fault.lose_answer:
            raise self._reset()
        self.request_log.status = answer.status
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        body = b"" if self.command == "HEAD" else answer.body
        if fault and fault.truncate is not None:
            self.wfile.write(body[: fault.truncate])
            raise _Cut  # no RST, which would take back bytes under way
        self.wfile.write(body)

    def _work(self) -> Answer:
        method = "GET" if self.command == "HEAD" else self.command
        try:
            self._identify()
            for origin, verb, pattern, action in _ROUTES:
                found = pattern.fullmatch(self.request_log.path)
                if found and (origin, verb) == (self.server.origin, method):
                    with self.server.hub.lock:
                        return action(self, **{k: unquote(v or "") for k, v in found.groupdict().items()})
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            return refusal.answer

    # ---- rights and revisions ----

    def _identify(self) -> None:
        token, hub = self.request_log.token, self.server.hub
        self.user: User | None = None
        if token is None:
            return
        if self.server.origin == "storage":
            raise Refusal(400, "Only one auth mechanism allowed: this address is signed")
        self.user = hub.tokens.get(token)
        if self.user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")

    def _signed_in(self) -> User:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return self.user

    def _repo(self, repo_id: str, write: bool = False, propose: bool = False) -> Repo:
        """The repository, if this user may read it, write to it, or propose a change (open a pull request)."""
        repo = self.server.hub.repos.get(repo_id)
        is_owner = self.user is not None and self.user.name == repo_id.removeprefix("spaces/").split("/")[0]
        if repo is None or (repo.private and not is_owner):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write or propose:
            user = self._signed_in()
            if user.role != "write":
                raise Refusal(403, "Your token has no write permission")
            if write and not is_owner:
                raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def _sha(self, repo: Repo, rev: str) -> str:
        sha = repo.refs.get(rev, rev)
        if sha not in repo.commits:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return sha

    def _json_body(self, text: bytes | None = None) -> dict[str, Any]:
        try:
            return json.loads(self.body if text is None else text)
        except ValueError as error:
            raise Refusal(400, f"Invalid JSON: {error}") from error

    # ---- accounts and repositories ----

    @_route("GET", "/api/whoami-v2")
    def _whoami(self) -> Answer:
        user = self._signed_in()
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
        return _json(200, {"type": "user", "name": user.name, "fullname": user.name, "orgs": [], "auth": auth})

    @_route("POST", "/api/repos/create")
    def _create(self) -> Answer:
        user, wanted, hub = self._signed_in(), self._json_body(), self.server.hub
        namespace = wanted.get("organization") or user.name
        if user.role != "write" or namespace != user.name:
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        kind = wanted.get("type", "model")
        if not re.fullmatch(r"[\w.-]{1,96}", wanted.get("name", "")) or kind not in ("model", "space"):
            raise Refusal(400, "Invalid repository name or type")
        if kind == "space" and wanted.get("sdk") not in SDKS:
            raise Refusal(400, f'"sdk" must be one of [{", ".join(SDKS)}]')
        name = f"{namespace}/{wanted['name']}"
        repo_id = f"spaces/{name}" if kind == "space" else name
        place = {"name": name, "url": f"{hub.endpoint}/{repo_id}"}
        if repo_id in hub.repos:
            raise Refusal(409, "You already created this model repo", **place)
        repo = hub.create(repo_id, private=wanted.get("visibility") == "private")
        if kind == "space":  # begins with a README of its own
            head = yaml.safe_dump({"title": wanted["name"].title(), "sdk": wanted["sdk"], "pinned": False})
            repo.commit({"README.md": f"---\n{head}---\n".encode()}, "initial commit")
        return _json(200, place)

    @_route("POST", "/api/validate-yaml")
    def _validate_yaml(self) -> Answer:
        asked = self._json_body()
        errors, warnings = check_card(asked["content"], asked.get("repoType") == "space")
        found = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        return _json(400 if errors else 200, found)

    @_route("GET", f"{API}/auth-check(?P<write>/write)?")
    def _auth_check(self, repo_id: str, write: str) -> Answer:
        self._repo(repo_id, write=bool(write))
        return _json(200, {})

    @_route("POST", f"{API}/branch/(?P<name>[^/]+)")
    def _branch(self, repo_id: str, name: str) -> Answer:
        repo = self._repo(repo_id, write=True)
        return self._new_ref(repo, name, self._json_body().get("startingPoint") or "main")

    @_route("POST", f"{API}/tag/{REV}")
    def _tag(self, repo_id: str, rev: str) -> Answer:
        repo, name = self._repo(repo_id, write=True), self._json_body()["tag"]
        answer = self._new_ref(repo, name, rev)
        repo.tags.add(name)
        return answer

    def _new_ref(self, repo: Repo, name: str, start: str) -> Answer:
        sha = self._sha(repo, start)
        if name in repo.refs:
            raise Refusal(409, f"Reference already exists: {name}")
        repo.refs[name] = sha
        return _json(200, {})

    # ---- reading ----

    @_route("GET", f"{API}(?:/revision/{REV})?")
    def _info(self, repo_id: str, rev: str) -> Answer:
        repo = self._repo(repo_id)
        sha = self._sha(repo, rev or "main")
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha].files)]
        name = repo_id.removeprefix("spaces/")
        about = {"id": name, "author": name.split("/")[0], "private": repo.private, "tags": []}
        readme = repo.files(sha).get("README.md", b"").decode(errors="replace")
        block = CARD_HEAD.match(readme)
        about |= {"cardData": yaml.safe_load(block[1])} if block and not check_card(readme)[0] else {}
        return _json(200, {**about, "sha": sha, "siblings": siblings, "gated": False, "disabled": False})

    @_route("GET", f"{API}/tree/{REV}(?:/(?P<path>.+))?")
    def _tree(self, repo_id: str, rev: str, path: str) -> Answer:
        repo = self._repo(repo_id)
        prefix = f"{path}/" if path else ""
        entries = _entries(repo.commits[self._sha(repo, rev)].files)
        inside = {p: entry for p, entry in sorted(entries.items()) if p.startswith(prefix)}
        if path and not inside:
            raise Refusal(404, f"{path} does not exist on {rev}", "EntryNotFound")
        is_deep = self.query.get("recursive", "").lower() in ("true", "1")
        return _json(200, [entry for p, entry in inside.items() if is_deep or "/" not in p[len(prefix) :]])

    @_route("POST", f"{API}/paths-info/{REV}")
    def _paths_info(self, repo_id: str, rev: str) -> Answer:
        repo = self._repo(repo_id)
        entries = _entries(repo.commits[self._sha(repo, rev)].files)
        return _json(200, [entries[p] for p in parse_qs(self.body.decode()).get("paths", []) if p in entries])

    @_route("GET", f"/{ID}/resolve/{REV}/(?P<path>.+)")
    def _resolve(self, repo_id: str, rev: str, path: str) -> Answer:
        repo = self._repo(repo_id)
        sha = self._sha(repo, rev)
        blob = repo.commits[sha].files.get(path)
        if blob is None:
            refusal = Refusal(404, "Entry not found", "EntryNotFound")
            refusal.answer.headers["X-Repo-Commit"] = sha
            raise refusal
        about = {"X-Repo-Commit": sha}
        if not blob.is_lfs:
            return self._content(blob.data, blob.oid, about)
        size = len(blob.data)
        about |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(size)}
        return Answer(302, b"", {**about, "Location": self.server.hub.sign("GET", repo_id, blob.oid, size)})

    def _content(self, data: bytes, oid: str, about: Mapping[str, str]) -> Answer:
        headers = {**about, "ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if self.headers.get("If-None-Match") == headers["ETag"]:
            return Answer(304, b"", headers)
        found = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", self.headers.get("Range", ""))
        if found is None:
            return Answer(200, data, headers)
        first, last, tail = found.groups()
        start = int(first) if first else max(0, len(data) - int(tail))
        part = data[start : int(last) + 1 if last else len(data)]
        if not part:
            return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
        return Answer(206, part, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"})

    # ---- writing ----

    @_route("POST", f"{API}/preupload/{REV}")
    def _preupload(self, repo_id: str, rev: str) -> Answer:
        repo = self._repo(repo_id, propose="create_pr" in self.query, write="create_pr" not in self.query)
        held = repo.commits[self._sha(repo, rev)].files
        answers = []
        for file in self._json_body()["files"]:
            path = file["path"]
            is_lfs = file["size"] > LFS_THRESHOLD or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)
            answer = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": held[path].oid} if path in held else {}))
        return _json(200, {"files": answers})

    @_route("POST", f"/{ID}\\.git/info/lfs/objects/batch")
    def _lfs_batch(self, repo_id: str) -> Answer:
        wanted, hub = self._json_body(), self.server.hub
        ref = wanted.get("ref", {}).get("name")  # left out for pull requests, which readers may open too
        repo = self._repo(repo_id, write=ref is not None, propose=ref is None)
        self._sha(repo, ref or "main")
        objects = []
        for item in wanted["objects"]:
            oid, size = item["oid"], item["size"]
            upload = {"href": hub.sign("PUT", repo_id, oid, size), "header": {}}
            verify = {"href": f"{hub.endpoint}/{repo_id}.git/info/lfs/verify", "header": {}}
            actions = {} if oid in repo.objects else {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": oid, "size": size, **actions})
        return _json(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    @_route("POST", f"/{ID}\\.git/info/lfs/verify")
    def _lfs_verify(self, repo_id: str) -> Answer:
        stored, wanted = self._repo(repo_id, propose=True).objects, self._json_body()
        if wanted["oid"] not in stored:
            raise Refusal(404, "Object does not exist on the server")
        if len(stored[wanted["oid"]]) != wanted["size"]:
            raise Refusal(422, "Object has another size")
        return _json(200, {})

    @_route("POST", f"{API}/commit/{REV}")
    def _commit(self, repo_id: str, rev: str) -> Answer:
        is_pr, hub = "create_pr" in self.query, self.server.hub
        repo = self._repo(repo_id, propose=is_pr, write=not is_pr)
        header, *changes = [self._json_body(line) for line in self.body.splitlines()] or [{}]
        if header.get("key") != "header":
            raise Refusal(400, "The first line must be the header")
        parent = self._sha(repo, rev)
        if not is_pr and (rev not in repo.refs or rev in repo.tags):
            raise Refusal(400, f"Not a branch: {rev}")
        if header["value"].get("parentCommit", parent) != parent:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[parent].files)
        for change in changes:
            _apply(repo, files, change["key"], change["value"])
        message = "\n\n".join(filter(None, (header["value"]["summary"], header["value"].get("description"))))
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
        sha = repo.append(files, message, parent, f"refs/pr/{number}" if is_pr else rev)
        url = f"{hub.endpoint}/{repo_id}"
        proposed = {"pullRequestUrl": f"{url}/discussions/{number}"} if is_pr else {}
        return _json(200, {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", **proposed})

    # ---- the storage: another origin, where the signature in the address is the only right ----

    def _stored(self, method: str, repo_id: str, oid: str) -> dict[str, bytes]:
        expected = self.server.hub.sign(method, repo_id, oid, self.query.get("size", ""))
        given = f"{self.server.hub.storage}{self.path}"
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise Refusal(403, "SignatureDoesNotMatch")
        return self.server.hub.repos[repo_id].objects

    @_route("PUT", f"/store/{ID}/(?P<oid>[0-9a-f]{{64}})", origin="storage")
    def _put_object(self, repo_id: str, oid: str) -> Answer:
        objects = self._stored("PUT", repo_id, oid)
        if hashlib.sha256(self.body).hexdigest() != oid or str(len(self.body)) != self.query["size"]:
            raise Refusal(400, "BadDigest: the content is not what was announced")
        objects[oid] = self.body
        return Answer(200, b"", {"ETag": f'"{oid}"'})

    @_route("GET", f"/store/{ID}/(?P<oid>[0-9a-f]{{64}})", origin="storage")
    def _get_object(self, repo_id: str, oid: str) -> Answer:
        return self._content(self._stored("GET", repo_id, oid)[oid], oid, {})


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, hub: "LoopbackHub", origin: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.origin = hub, origin
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.open: set[socket.socket] = set()
        self.loop = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        self.close_request(request)  # without the orderly shutdown of the base class, which would spoil a reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # clients may die at any time
            self.hub.crashes.append(error)

    def stop(self) -> None:
        self.shutdown()
        for connection in self.open.copy():  # wakes the threads that wait for a client's next request
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by its own thread meanwhile
                continue
        self.server_close()  # joins all threads


class LoopbackHub:
    """The Hub; see the module's docstring."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.tokens: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.crashes: list[BaseException | None] = []  # errors of the hub itself, raised on exit
        self._key = secrets.token_bytes()
        self._servers = [_Server(self, "hub"), _Server(self, "storage")]
        self.endpoint, self.storage = (server.url for server in self._servers)

    def __enter__(self) -> "LoopbackHub":
        for server in self._servers:
            server.loop.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.stop()
        if self.crashes and error is None:
            raise RuntimeError("the loopback hub itself failed") from self.crashes[0]

    def stop(self) -> None:
        """End held requests and all connections; afterwards no client can connect."""
        if not self.stopping.is_set():
            self.stopping.set()
            for server in self._servers:
                server.stop()

    def add_user(self, name: str, token: str, role: str = "write") -> None:
        self.tokens[token] = User(name, role)

    def create(self, repo_id: str, private: bool = False) -> Repo:
        with self.lock:
            return self.repos.setdefault(repo_id, Repo(repo_id, private, self.lock))

    def fail(self, method: str, pattern: str, times: int | None = 1, **kind: Any) -> Fault:
        """Arrange a fault for requests whose path contains the pattern; the earliest fault that matches counts."""
        fault = Fault(method, pattern, times, **kind)
        with self.lock:
            self.faults.append(fault)
        return fault

    def arrive(self, request: Request) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            fault = next((f for f in self.faults if f.strikes(request.method, request.path)), None)
            if fault:
                fault.count += 1
            return fault

    def sign(self, method: str, repo_id: str, oid: str, size: int | str) -> str:
        """A signed address for one kind of access to one object."""
        signature = hmac.new(self._key, f"{method} {repo_id} {oid} {size}".encode(), "sha256").hexdigest()
        return f"{self.storage}/store/{quote(repo_id)}/{oid}?size={size}&signature={signature}"
