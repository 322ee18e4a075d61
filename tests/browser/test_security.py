"""What a hostile client tries: every handler is public, whatever the page shows."""

import json
import urllib.error
import urllib.request

import pytest


def post(address, handler, data):
    """Calls a handler as any client can, and returns what its event stream says."""
    body = json.dumps({"data": data}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/call/{handler}", body, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/{handler}/{event}", timeout=20) as stream:
        return stream.read().decode()


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "../pyproject.toml", "http://127.0.0.1:1/x"])
def test_files_are_not_served(address, path):
    assert status_of(f"{address}/gradio_api/file={path}") in (403, 404)


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "hub/emoji-sae/config.json"])
def test_pictures_cannot_be_named_by_path(address, path):
    answer = post(address, "inspect", [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert "event: error" in answer and "root:" not in answer


@pytest.mark.parametrize("neuron", ["-1", "999999", "1e3", "../x", None, [1], {"a": 1}, "0\x00"])
def test_neurons_are_checked_again(address, neuron):
    answer = post(address, "pick", ["pizza", neuron])
    assert "event: error" in answer and "Traceback" not in answer


def test_what_is_typed_comes_back_as_text(address):
    answer = post(address, "search", ["<img src=x onerror=alert(1)>"])
    assert "event: complete" in answer
    assert "<img src=x" not in answer and "onerror=alert(1)>" not in answer


@pytest.mark.parametrize("query", ["x" * 100_000, None, 7, ["a"], {"a": "b"}])
def test_odd_queries_are_survived(address, query):
    assert "Traceback" not in post(address, "search", [query])
    assert status_of(address) == 200
