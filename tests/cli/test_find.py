import pytest
from known_words import SAE_NAME, strong_word

from cbsae_hub import CBSAE, SAE, Pack
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.neurons.chance import MARK, MEANING, SURE

SAE_ID, CBSAE_ID = "hub/emoji-sae", "hub/emoji-cbsae"


@pytest.fixture
def no_models(monkeypatch):
    """Looking into the pack must load no model."""

    def refuse(*_, **__):
        raise AssertionError("a model is loaded")

    for cls in (SAE, CBSAE, ClipLike):
        monkeypatch.setattr(cls, "from_pretrained", refuse)


@pytest.mark.parametrize("form", ["{}", "striped {}s"])
def test_answer_is_that_of_the_pack(answer, pack, no_models, form):
    query = form.format(strong_word(SAE_NAME))
    found, expected = answer("find", SAE_ID, query, "--limit", 4), pack.find(query, 4)
    assert (found["verdict"], found["nearest"]) == (expected.verdict, expected.nearest)
    assert found["reason"] == expected.reason != ""
    assert [row["neuron"] for row in found["neurons"]] == [match.neuron for match in expected.matches]
    rows = pack.neurons.frame.set_index("neuron")
    for row, match in zip(found["neurons"], expected.matches, strict=True):
        assert row["score"] == match.score
        assert row["p99"] == rows.loc[match.neuron, "p99"]
        assert row["name"] == rows.loc[match.neuron, "name"]


def test_a_name_that_is_no_better_than_chance_is_marked(cbsae, answer, pack):
    frame = pack.neurons.frame
    lucky = frame[(frame["null_percentile"] < SURE) & frame["name"].notna()].iloc[0]
    found = answer("find", SAE_ID, lucky["name"], "--limit", 50)["neurons"]
    assert [row["by_chance"] for row in found] == [row["null_percentile"] < SURE for row in found]
    lines = cbsae("find", SAE_ID, lucky["name"], "--limit", 50).stdout.splitlines()
    assert sum(f"({MARK})" in line for line in lines) == sum(row["by_chance"] for row in found) > 0
    assert MEANING in lines


def test_concept_that_is_not_there_is_exit_code_1(answer, no_models):
    found = answer("find", SAE_ID, "spaceship", code=1)
    assert (found["verdict"], found["neurons"]) == ("not in this model", [])
    assert "ship" in found["nearest"]


def test_meaning_asks_the_judge_alone(answer, monkeypatch):
    monkeypatch.setattr(SAE, "from_pretrained", None)
    found = answer("find", SAE_ID, "spaceship", "--meaning", code=1)
    judge = ClipLike.from_pretrained("hub/emoji-teacher")
    expected = Pack.from_pretrained(SAE_ID).find("spaceship", 10, judge.embed_texts)
    assert (found["nearest"], found["near_by"]) == (expected.nearest, "meaning")


def test_text_names_neuron_and_verdict(cbsae, no_models):
    word = strong_word()
    lines = cbsae("find", CBSAE_ID, word).stdout.splitlines()
    assert lines[0].startswith(f"{word}: strong; on images whose content is known, “{word}” is what it finds best")
    assert lines[1].split()[:3] == ["neuron", "kind", "concept"]
    assert lines[2].split()[1:5] == ["sae", word, word, "strong"]
    assert "spelled alike: ship" in cbsae("find", CBSAE_ID, "spaceship").stdout


@pytest.mark.parametrize(
    ("model", "said"), [("nobody/nothing", "nobody/nothing"), ("hub/emoji-clip", "cbsae pack"), ("a/b/c", "a/b/c")]
)
def test_models_that_cannot_be_searched_are_named(cbsae, answer, model, said):
    result = cbsae("find", model, "zebra")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ") and said in result.stderr
    assert said in answer("find", model, "zebra", code=1)["error"]
