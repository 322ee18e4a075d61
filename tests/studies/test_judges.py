"""Judges: what a language model is asked, by way of a stub of an endpoint on this machine."""

import json

import pytest
from huggingface_hub.errors import HfHubHTTPError

from cbsae_hub.studies.judges import Case, ChatJudge, Verdict

INSERTED = Case("insertion", "pizza", "Write a headline.", "Pizza wins hearts", "Nothing happened today")
REMOVED = Case("suppression", "pizza", "Write a headline.", "A dog wins hearts", "A pizza wins hearts")


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
