"""Calls of the page's handlers by plain HTTP, as anybody can make them."""

import json
import urllib.error
import urllib.request


def post(address, handler, data):
    """Calls a handler by name, and returns what its event stream says, or the same for what is refused at once."""
    body = json.dumps({"data": data}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/call/{handler}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            event = json.load(answer)["event_id"]
    except urllib.error.HTTPError as error:
        return f"event: error\ndata: {error.read().decode()}"
    with urllib.request.urlopen(f"{address}/gradio_api/call/{handler}/{event}", timeout=60) as stream:
        return stream.read().decode()


def answer_of(address, handler, *data):
    """The answer of a public endpoint; fails if there was none."""
    told = post(address, handler, list(data))
    assert "event: complete" in told, told
    return json.loads(told.split("event: complete\ndata: ")[1].split("\n")[0])[0]


def status_of(url):
    """The status of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
