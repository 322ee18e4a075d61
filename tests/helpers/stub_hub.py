"""A stand-in for the Hub that speaks enough of its protocol over HTTP, with a second host for large files."""

import base64
import hashlib
import json
import re
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".parquet", ".png")  # what goes into LFS
TOKEN = "hf_stub"
ATTRIBUTES = ".gitattributes"  # the Hub puts it into every repository


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Call(NamedTuple):
    """A request: "hub" or "cdn", "METHOD path", and what it had to say about who asks."""

    server: str
    request: str
    authorization: str | None


class StubHub:
    """Repositories in memory.

    ``files[key][revision][path]``, where the key is the id, behind "datasets/" or "spaces/" for those, and a revision
    is a commit, a branch, a tag or "refs/pr/N".
    """

    def __init__(self):
        self.files, self.objects, self.calls, self.collections, self.private = {}, {}, [], {}, set()
        self.faults = []
        self.cdn = None  # address of the second host, once large files shall come from there and go there

    # ---------------------------------------------------------------------------------------- what tests say

    def fail(self, pattern, status, headers=None, times=None):
        """Answers requests whose "METHOD path" matches with an error from now on, or so many times."""
        self.faults.append([pattern, "status", (status, headers or {}), times])

    def cut(self, pattern, times=None):
        """Closes the connection in the middle of the body of such requests: of the answer, or of what is sent."""
        self.faults.append([pattern, "cut", None, times])

    def lose(self, pattern, times=None):
        """Does what such requests ask for, and closes the connection in the middle of the answer."""
        self.faults.append([pattern, "lose", None, times])

    def damage(self, pattern, times=None):
        """Changes a byte of the answers to such requests."""
        self.faults.append([pattern, "damage", None, times])

    def heal(self):
        self.faults.clear()

    # ------------------------------------------------------------------------------------- what tests look at

    @property
    def requests(self):
        return [call.request for call in self.calls]

    @property
    def commits(self):
        return [request for request in self.requests if "/commit/" in request]

    def paths(self, key, revision="main"):
        return set(self.files[key][revision]) - {ATTRIBUTES}

    # ---------------------------------------------------------------------------------------------- inside

    def fault(self, call):
        for fault in self.faults:
            pattern, kind, value, times = fault
            if re.match(pattern, call) and times != 0:
                fault[3] = None if times is None else times - 1
                return kind, value
        return None, None

    def commit(self, key, lines, pull_request=False):
        repo = self.files[key]
        files = dict(repo["main"])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        revision = hashlib.sha1(f"{key} {len(repo)} {sorted(files)}".encode()).hexdigest()
        branch = f"refs/pr/{1 + sum('refs/pr' in name for name in repo)}" if pull_request else "main"
        repo[branch] = repo[revision] = files
        return revision, branch

    def commit_of(self, key, revision):
        files = self.files[key][revision]
        return next(name for name, value in self.files[key].items() if value is files and len(name) == 40)

    def oid(self, content):
        sha256 = hashlib.sha256(content).hexdigest()
        return sha256 if sha256 in self.objects else git_hash(content)


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub
    server_name: str
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def answer(self, body=b"", status=200, headers=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind, _ = self.trouble
        if kind == "damage":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if kind in ("cut", "lose") else body)
            self.close_connection |= kind in ("cut", "lose")

    def handle_any(self):
        call = f"{self.command} {self.path}"
        self.hub.calls.append(Call(self.server_name, call, self.headers["Authorization"]))
        self.trouble = kind, value = self.hub.fault(call)
        length = int(self.headers.get("Content-Length") or 0)
        if kind == "cut" and length:
            self.rfile.read(length // 2)
            self.close_connection = True
            return None
        body = self.rfile.read(length)
        if kind == "status":
            return self.answer({"error": "refused by the stub"}, *value)
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        for pattern, method in self.ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {unquote(split.path)}"):
                return method(self, body, **match.groupdict())
        return self.answer(status=404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    @property
    def address(self):
        return f"http://{self.headers['Host']}"

    def missing(self, key, revision="main"):
        """Answers if there is no such repository or revision."""
        if key not in self.hub.files:
            self.answer(status=404, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in self.hub.files[key]:
            self.answer(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    # --------------------------------------------------------------------------------------------- endpoints

    def who(self, body):
        self.answer({"type": "user", "name": "me"})

    def create(self, body):
        request = json.loads(body)
        kind = request.get("type", "model")
        repo_id = "/".join((request.get("organization") or "me", request["name"]))
        key = repo_id if kind == "model" else f"{kind}s/{repo_id}"
        told = {"url": f"{self.address}/{key}", "name": repo_id}
        if key in self.hub.files:
            return self.answer(told, 409)
        files = {ATTRIBUTES: b"*.safetensors filter=lfs\n"}
        if kind == "space":
            files["README.md"] = b"---\ntitle: made by the Hub\n---\n"
        self.hub.files[key] = {"main": files, hashlib.sha1(key.encode()).hexdigest(): files}
        if request.get("visibility") == "private":
            self.hub.private.add(key)
        return self.answer(told)

    def validate(self, body):
        bad = "type: nonsense" in json.loads(body)["content"]
        errors = [{"message": '"type" is not allowed'}] if bad else []
        self.answer({"errors": errors, "warnings": []}, 400 if bad else 200)

    def info(self, body, kind, repo_id, revision="main"):
        key = repo_id if kind == "models" else f"{kind}/{repo_id}"
        if not self.missing(key, revision):
            commit, files = self.hub.commit_of(key, revision), self.hub.files[key][revision]
            siblings = [{"rfilename": path} for path in files]
            told = {"id": repo_id, "sha": commit, "private": key in self.hub.private, "siblings": siblings, "tags": []}
            self.answer(told)

    def tree(self, body, kind, repo_id, revision, folder=None):
        key = repo_id if kind == "models" else f"{kind}/{repo_id}"
        if not self.missing(key, revision):
            entries = []
            for path, content in self.hub.files[key][revision].items():
                if folder is not None and path.rpartition("/")[0] != folder:
                    continue
                entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                if (oid := self.hub.oid(content)) in self.hub.objects:
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self.answer(entries)

    def preupload(self, body, kind, repo_id, revision):
        key = repo_id if kind == "models" else f"{kind}/{repo_id}"
        if self.missing(key, revision):
            return
        answers = []
        for file in json.loads(body)["files"]:
            content = self.hub.files[key][revision].get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            oid = None if content is None else self.hub.oid(content)
            ignored = self.hub.files[key][revision].get(".gitignore", b"").decode().split()
            ignore = any(fnmatch(file["path"], pattern) for pattern in ignored)
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": ignore, "oid": oid})
        self.answer({"files": answers})

    def lfs_batch(self, body, key):
        objects = json.loads(body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.cdn or self.address}/lfs/{entry['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def put_object(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(status=422)
        self.hub.objects[oid] = body
        return self.answer()

    def get_object(self, body, oid):
        content = self.hub.objects[oid]
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            return self.answer(content[int(wanted[1]) :], 206)
        return self.answer(content)

    def make_commit(self, body, kind, repo_id, revision):
        key = repo_id if kind == "models" else f"{kind}/{repo_id}"
        if self.missing(key, revision):
            return
        header, *lines = map(json.loads, body.splitlines())
        if header["value"].get("parentCommit", self.hub.commit_of(key, revision)) != self.hub.commit_of(key, revision):
            self.answer({"error": "A commit has happened since"}, 412)
            return
        commit, branch = self.hub.commit(key, lines, "create_pr" in self.query)
        told = {"commitUrl": f"{self.address}/{key}/commit/{commit}", "commitOid": commit, "success": True}
        if branch != "main":
            told["pullRequestUrl"] = f"{self.address}/{key}/discussions/{branch.split('/')[-1]}"
        self.answer(told)

    def tag(self, body, kind, repo_id, revision):
        key, name = repo_id if kind == "models" else f"{kind}/{repo_id}", json.loads(body)["tag"]
        if not self.missing(key, revision):
            status = 409 if name in self.hub.files[key] else 200
            self.hub.files[key].setdefault(name, self.hub.files[key][revision])
            self.answer({}, status)

    def resolve(self, body, key, revision, path):
        if self.missing(key, revision):
            return None
        files, commit = self.hub.files[key][revision], self.hub.commit_of(key, revision)
        if path not in files:
            return self.answer(status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content, oid = files[path], self.hub.oid(files[path])
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit}
        if self.hub.cdn and oid in self.hub.objects:
            linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": len(content)}
            return self.answer(status=302, headers={**headers, **linked, "Location": f"{self.hub.cdn}/lfs/{oid}"})
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            return self.answer(content[int(wanted[1]) :], 206, headers)
        return self.answer(content, headers=headers)

    def create_collection(self, body):
        request = json.loads(body)
        slug = f"{request['namespace']}/{re.sub('[^a-z0-9]+', '-', request['title'].lower())}-{24 * '0'}"
        if slug in self.hub.collections:
            return self.answer({"slug": slug}, 409)
        self.hub.collections[slug] = {**request, "items": []}
        return self.collection(b"", slug)

    def collection(self, body, slug):
        told = self.hub.collections[slug]
        items = [{**item, "_id": str(i), "position": i} for i, item in enumerate(told["items"])]
        more = {"owner": "me", "lastUpdated": "2026-01-01T00:00:00.000Z", "position": 0, "theme": "blue", "upvotes": 0}
        self.answer({**more, "slug": slug, "title": told["title"], "private": told["private"], "items": items})

    def add_item(self, body, slug):
        item = json.loads(body)["item"]
        if item in self.hub.collections[slug]["items"]:
            return self.answer({}, 409)
        self.hub.collections[slug]["items"].append(item)
        return self.collection(b"", slug)

    _API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
    _KEY = r"/(?P<key>(?:datasets/|spaces/)?[^/]+/[^/]+)"
    ROUTES = {
        r"GET /api/whoami-v2": who,
        r"POST /api/repos/create": create,
        r"POST /api/validate-yaml": validate,
        rf"GET {_API}": info,
        rf"GET {_API}/revision/(?P<revision>.+)": info,
        rf"GET {_API}/tree/(?P<revision>refs/pr/\d+|feature/\w+|[^/]+)(?:/(?P<folder>.+))?": tree,
        rf"POST {_API}/preupload/(?P<revision>.+)": preupload,
        rf"POST {_API}/commit/(?P<revision>.+)": make_commit,
        rf"POST {_API}/tag/(?P<revision>.+)": tag,
        rf"POST {_KEY}\.git/info/lfs/objects/batch": lfs_batch,
        r"PUT /lfs/(?P<oid>\w+)": put_object,
        r"GET /lfs/(?P<oid>\w+)": get_object,
        rf"(?:GET|HEAD) {_KEY}/resolve/(?P<revision>refs/pr/\d+|feature/\w+|[^/]+)/(?P<path>.+)": resolve,
        r"POST /api/collections": create_collection,
        r"GET /api/collections/(?P<slug>[^/]+/[^/]+)": collection,
        r"POST /api/collections/(?P<slug>[^/]+/[^/]+)/items": add_item,
    }


def _serve(stub, name):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": stub, "server_name": name}))
    server.daemon_threads = True
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running StubHub that huggingface_hub talks to, with an empty cache of its own; nobody waits before a retry."""
    stub = StubHub()
    server = _serve(stub, "hub")
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0.0))
    yield stub
    server.shutdown()
    server.server_close()


@pytest.fixture
def cdn(hub):
    """A second host, to and from which the Hub sends large files."""
    server = _serve(hub, "cdn")
    hub.cdn = f"http://127.0.0.1:{server.server_port}"
    yield hub.cdn
    server.shutdown()
    server.server_close()
