"""Judges: what a language model is asked, by way of a stub of an endpoint on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from cbsae_hub.studies.judges import Case, ChatJudge, Verdict

INSERTED = Case("insertion", "pizza", "Write a headline.", "Pizza wins hearts", "Nothing happened today")
REMOVED = Case("suppression", "pizza", "Write a headline.", "A dog wins hearts", "A pizza wins hearts")


class Endpoint:
    """Speaks OpenAI's chat completion protocol: gives prepared replies, one by one, and keeps what it was sent."""

    def __init__(self):
        self.replies, self.requests, self.headers, self.status = [], [], [], 200
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/v1/chat/completions"
                endpoint.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                endpoint.headers.append({name.lower(): text for name, text in self.headers.items()})
                message = {"role": "assistant", "content": endpoint.replies.pop(0)}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "system_fingerprint": ""}
                body = json.dumps({**reply, "choices": [choice], "usage": usage}).encode()
                self.send_response(endpoint.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the client then refuses this machine's endpoints, too
    stub = Endpoint()
    thread = threading.Thread(target=stub.server.serve_forever)
    thread.start()
    yield stub
    stub.server.shutdown()
    thread.join()
    stub.server.server_close()


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        (["yes", "no"], Verdict(True, False)),
        (["No.", " Yes\n"], Verdict(False, True)),
        (["YES.", "YES"], Verdict(True, True)),
    ],
)
@pytest.mark.parametrize("case", [INSERTED, REMOVED])
def test_two_questions_make_a_verdict(endpoint, case, replies, verdict):
    endpoint.replies = list(replies)
    assert ChatJudge("gpt", endpoint.url, "secret")(case) == verdict
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("case", [INSERTED, REMOVED])
def test_what_is_asked(endpoint, case):
    endpoint.replies = ["yes", "yes"]
    ChatJudge("gpt", endpoint.url, "secret")(case)
    for request in endpoint.requests:
        assert request["model"] == "gpt" and request["temperature"] == 0
        text = request["messages"][-1]["content"]
        assert case.prompt in text and case.answer in text
        assert (case.plain in text) == (case.kind == "suppression")
    concept, rest = (request["messages"][-1]["content"] for request in endpoint.requests)
    assert '"pizza"' in concept and concept != rest
    assert [headers["authorization"] for headers in endpoint.headers] == ["Bearer secret"] * 2


@pytest.mark.parametrize("reply", ["Yes, it does.", "maybe", "", "yes no", None])
def test_anything_but_yes_or_no_is_an_error(endpoint, reply):
    endpoint.replies = [reply, "yes"]
    with pytest.raises(ValueError, match="gpt was to answer yes or no and said"):
        ChatJudge("gpt", endpoint.url)(INSERTED)
    assert len(endpoint.requests) == 1, "nothing is asked twice"


def test_refusals_are_errors(endpoint):
    endpoint.replies, endpoint.status = ["yes"], 401
    with pytest.raises(HfHubHTTPError) as error:
        ChatJudge("gpt", endpoint.url, "secret-key")(INSERTED)
    assert "secret-key" not in str(error.value)


def test_keys_stay_secret(endpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_saved")
    judge = ChatJudge("gpt", endpoint.url)
    endpoint.replies = ["yes", "yes"]
    judge(INSERTED)
    assert "hf_saved" not in json.dumps(endpoint.headers), "the Hub's token is for the Hub"
    assert "secret" not in repr(ChatJudge("gpt", endpoint.url, "secret"))


def test_unknown_kinds_are_errors():
    with pytest.raises(ValueError, match="kind must be one of insertion, suppression"):
        Case("removal", "pizza", "", "", "")
