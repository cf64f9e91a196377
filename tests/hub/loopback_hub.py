"""A Hub on loopback: the endpoints that pushing and loading a model need, spoken over HTTP.

create → validate-yaml → preupload → LFS batch → PUT → verify → commit (NDJSON), then resolve. It
refuses what the Hub refuses: no token, bad front matter, bytes that are not what their hash says,
weights sent as regular files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_tokenoftheloopbackhub00"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
REPO_ID = r"[\w.-]+/[\w.-]+"


@dataclass
class Fault:
    """An answer in place of the right one: a status, or the connection cut while a body comes."""

    method: str
    path: str
    status: int | None = None
    times: int = 10**6
    after: int = 0  # right answers before it


@dataclass
class Repo:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    as_lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(json.dumps(self.commits).encode()).hexdigest()


class LoopbackHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.gates: dict[str, threading.Event] = {}  # by method: it waits for them
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.lock = threading.Lock()

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is no news."""

    def download(self, repo: str, folder: Path) -> Path:
        for name, content in self.repos[repo].files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path):
                    if fault.after > 0:
                        fault.after -= 1
                    elif fault.times > 0:
                        fault.times -= 1
                        return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        self._serve()

    do_PUT = do_GET = do_HEAD = do_POST

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        fault = self.server.fault(self.command, path)
        if fault and fault.status is None:
            self._cut()
            return
        if gate := self.server.gates.get(self.command):
            gate.wait(60)
        body = self._body()
        self.server.bodies.append(body)
        if fault:
            self._error(fault.status, "the loopback hub was told to fail")
            return
        for methods, pattern, handler in _ROUTES:
            found = re.fullmatch(pattern, path)
            if self.command in methods and found:
                handler(self, body, *found.groups())
                return
        self._error(404, f"no such endpoint: {self.command} {path}", "EntryNotFound")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _cut(self) -> None:
        """Reads a little of the body, then resets the connection."""
        self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 1000)))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self._answer({"error": message}, status, **headers)

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._error(401, "Invalid username or password.")
        return False

    # -- the endpoints -------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        if not self._may_write():
            return
        asked = json.loads(body)
        repo = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        known = repo in self.server.repos
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repos.setdefault(repo, Repo(private))  # of a known one it stays as it was
        self._answer({"url": f"{self.server.url}/{repo}", "name": repo}, 409 if known else 200)

    def validate_yaml(self, body: bytes) -> None:
        errors = front_matter_errors(json.loads(body)["content"])
        answer = {"errors": [{"message": e} for e in errors], "warnings": []}
        self._answer(answer, 400 if errors else 200)

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may_write() or not self._known(repo):
            return
        files = []
        for asked in json.loads(body)["files"]:
            binary = b"\0" in base64.b64decode(asked["sample"])
            lfs = binary or asked["path"].endswith(WEIGHTS)
            mode = "lfs" if lfs else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False})
        self._answer({"files": files})

    def lfs_batch(self, body: bytes, repo: str) -> None:
        if not self._may_write() or not self._known(repo):
            return
        objects = []
        for asked in json.loads(body)["objects"]:
            oid = asked["oid"]
            if oid not in self.server.objects:
                upload = {"href": f"{self.server.url}/lfs/{oid}?X-Amz-Signature=secretsignature"}
                verify = {"href": f"{self.server.url}/{repo}.git/lfs/verify"}
                asked["actions"] = {"upload": upload, "verify": verify}
            objects.append(asked)
        self._answer({"transfer": "basic", "objects": objects})

    def put_object(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._error(400, "the bytes are not those of the hash")
            return
        self.server.objects[oid] = body
        self._answer({})

    def verify(self, body: bytes, repo: str) -> None:
        asked = json.loads(body)
        held = self.server.objects.get(asked["oid"])
        if held is None or len(held) != asked["size"]:
            self._error(404, "no such object")
            return
        self._answer({})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may_write() or not self._known(repo):
            return
        assert self.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in body.splitlines()]
        header, operations = lines[0], lines[1:]
        files, lfs = {}, set()
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                if value["path"].endswith(WEIGHTS):
                    self._error(400, f"{value['path']} must be an LFS file")
                    return
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    self._error(400, f"{value['path']}: the object was never uploaded")
                    return
                files[value["path"]] = self.server.objects[value["oid"]]
                lfs.add(value["path"])
        with self.server.lock:
            held = self.server.repos[repo]
            held.files |= files
            held.as_lfs |= lfs
            held.commits.append(header["value"]["summary"])
        url = f"{self.server.url}/{repo}/commit/{held.sha}"
        self._answer({"success": True, "commitUrl": url, "commitOid": held.sha})

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        if self._known(repo):
            held = self.server.repos[repo]
            siblings = [{"rfilename": name} for name in held.files]
            self._answer({"id": repo, "sha": held.sha, "siblings": siblings, "tags": []})

    def resolve(self, body: bytes, repo: str, revision: str, name: str) -> None:
        if not self._known(repo):
            return
        held = self.server.repos[repo]
        if name not in held.files:
            self._error(404, "Entry not found", "EntryNotFound")
            return
        etag = f'"{hashlib.sha256(held.files[name]).hexdigest()}"'
        self._answer(held.files[name], ETag=etag, X_Repo_Commit=held.sha)

    def _known(self, repo: str) -> bool:
        if repo in self.server.repos:
            return True
        self._error(404, "Repository not found", "RepoNotFound")
        return False


_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/({REPO_ID})/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/({REPO_ID})\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(\w+)", _Handler.put_object),
    ("POST", rf"/({REPO_ID})\.git/lfs/verify", _Handler.verify),
    ("POST", rf"/api/models/({REPO_ID})/commit/(.+)", _Handler.commit),
    ("GET", rf"/api/models/({REPO_ID})(?:/revision/([^/]+))?", _Handler.info),
    ("GET HEAD", rf"/({REPO_ID})/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def front_matter_errors(content: str) -> list[str]:
    """What the Hub would say of a README's front matter."""
    block = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.S)
    if not block:
        return ["no front matter"]
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["not a mapping"]
    errors = []
    ids = [("base_model", data.get("base_model"))]
    ids += [(f"datasets[{i}]", name) for i, name in enumerate(data.get("datasets") or [])]
    for key, name in ids:
        if name is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name), re.ASCII):
            errors.append(f'"{key}" with value "{name}" is not valid')
    if not all(isinstance(tag, str) for tag in data.get("tags") or []):
        errors.append('"tags" must be texts')
    return errors


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
