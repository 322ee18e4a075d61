"""SAEs of every variant, and a stand-in for the Hub that speaks enough of its protocol over HTTP."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from huggingface_hub import constants

from cbsae_hub import SAE

VARIANTS = {
    "relu": {"activation": "relu"},
    "topk": {"activation": "topk"},
    "batch_topk": {"activation": "batch_topk"},
    "matryoshka": {"activation": "batch_topk", "group_sizes": (4, 12, 32)},
    "batch_topk_vector": {"activation": "batch_topk", "threshold_per_neuron": True},
    "jumprelu": {"activation": "jumprelu", "bandwidth": 0.3},
    "gated": {"activation": "gated"},
}
D_IN, D_SAE, K = 12, 48, 5


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def sae(variant):
    return random_sae(variant)


def random_sae(variant, **settings):
    """An SAE in which every parameter has its own random value, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    sae = SAE(D_IN, D_SAE, k=K, **VARIANTS[variant], **settings)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if sae.threshold is not None:
            sae.threshold.copy_(0.2 + 0.5 * torch.rand(sae.threshold.shape))
    return sae


@pytest.fixture
def make_sae():
    return random_sae


@pytest.fixture
def x():
    return torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1))


class StubHub:
    """Repositories in memory: ``files[repo_id][revision][path]``; every commit is also on "main"."""

    def __init__(self):
        self.files, self.objects, self.requests, self.failures = {}, {}, [], {}

    def fail(self, pattern, status, headers=None):
        """Answers requests whose "METHOD path" matches with an error from now on."""
        self.failures[pattern] = (status, headers or {})

    def commit(self, repo_id, lines):
        repo = self.files.setdefault(repo_id, {})
        files = dict(repo.get("main", {}))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        revision = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repo["main"] = repo[revision] = files
        return revision


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub

    def log_message(self, *args):
        pass

    def answer(self, body=b"", status=200, headers=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = f"{self.command} {self.path}"
        self.hub.requests.append(call)
        for pattern, (status, headers) in self.hub.failures.items():
            if re.match(pattern, call):
                return self.answer({"error": "refused by the stub"}, status, headers)
        for pattern, method in self.ROUTES.items():
            if match := re.fullmatch(pattern, call):
                return method(self, body, **match.groupdict())
        return self.answer(status=404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, body):
        request = json.loads(body)
        repo_id = "/".join(filter(None, (request.get("organization") or "me", request["name"])))
        self.hub.files.setdefault(repo_id, {"main": {}})
        self.answer({"url": f"http://{self.headers['Host']}/{repo_id}", "name": repo_id})

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, body, repo_id):
        files = json.loads(body)["files"]
        for file in files:
            file["uploadMode"] = "lfs" if file["path"].endswith(".safetensors") else "regular"
            file["shouldIgnore"] = False
        self.answer({"files": files})

    def lfs_batch(self, body, repo_id):
        objects = json.loads(body)["objects"]
        for entry in objects:
            entry["actions"] = {"upload": {"href": f"http://{self.headers['Host']}/lfs/{entry['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def put_object(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.answer()

    def make_commit(self, body, repo_id):
        revision = self.hub.commit(repo_id, [json.loads(line) for line in body.splitlines()])
        url = f"http://{self.headers['Host']}/{repo_id}/commit/{revision}"
        self.answer({"commitUrl": url, "commitOid": revision, "success": True})

    def model_info(self, body, repo_id, revision=None):
        revisions = self.hub.files.get(repo_id)
        if revisions is None or (revision or "main") not in revisions:
            return self.answer(
                status=404, headers={"X-Error-Code": "RepoNotFound" if revisions is None else "RevisionNotFound"}
            )
        files = revisions[revision or "main"]
        commit = next(name for name, value in revisions.items() if value == files and name != "main")
        self.answer({"id": repo_id, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def resolve(self, body, repo_id, revision, path):
        if repo_id not in self.hub.files:
            return self.answer(status=404, headers={"X-Error-Code": "RepoNotFound"})
        revisions = self.hub.files[repo_id]
        if revision not in revisions:
            return self.answer(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        files = revisions[revision]
        commit = next((name for name, value in revisions.items() if value == files and name != "main"), "0" * 40)
        if path not in files:
            return self.answer(status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        return self.answer(files[path], headers={"ETag": etag, "X-Repo-Commit": commit})

    ROUTES = {
        r"POST /api/repos/create": create,
        r"POST /api/validate-yaml": validate,
        r"POST /api/models/(?P<repo_id>.+)/preupload/main.*": preupload,
        r"POST /(?P<repo_id>.+)\.git/info/lfs/objects/batch": lfs_batch,
        r"PUT /lfs/(?P<oid>\w+)": put_object,
        r"POST /api/models/(?P<repo_id>.+)/commit/main.*": make_commit,
        r"GET /api/models/(?P<repo_id>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?": model_info,
        r"(?:GET|HEAD) /(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": resolve,
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running StubHub that huggingface_hub talks to, with an empty cache of its own."""
    stub = StubHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": stub}))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    yield stub
    server.shutdown()
    server.server_close()
