"""The cards in hub/ are those that ``python training/write_cards.py`` writes, valid on the Hub, and their code runs."""

import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

from cbsae_hub.cards.by_hand import ByHand
from cbsae_hub.cards.facts import Facts
from cbsae_hub.cards.write import render_card
from cbsae_hub.hub.stamp import edited_by_hand
from training.emoji_world.paths import HUB, ROOT

NAMES = sorted(folder.name for folder in HUB.iterdir())
IMAGES = ("emoji-images", "emoji-pairs")
MODELS = [name for name in NAMES if name not in IMAGES]
TASKS = {"feature-extraction", "zero-shot-image-classification", "image-feature-extraction", "image-text-to-text",
         "image-to-image"}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


def test_a_card_is_what_the_files_beside_it_say(name):
    card, repo_id = (HUB / name / "README.md").read_text(encoding="utf-8"), f"hub/{name}"
    facts = Facts.read(HUB / name)
    assert card == render_card(facts, repo_id, ByHand.read(ROOT / "model_cards" / f"{name}.md", facts, repo_id))
    assert not edited_by_hand(card)


def test_metadata_is_valid(name):
    """The Hub refuses a bad id, a result without a type, a number or a dataset, tags that are no texts."""
    card = ModelCard.load(HUB / name / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "mit" and all(isinstance(tag, str) for tag in data["tags"])
    ids = [*data.get("datasets", []), *([data["base_model"]] if isinstance(data.get("base_model"), str) else [])]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", one) for one in ids)
    if name in IMAGES:
        assert [config["config_name"] for config in data["configs"]] == ["default"]
        return
    assert data["pipeline_tag"] in TASKS and data["library_name"] in (
        "cbsae_hub",
        "transformers",
        "open_clip",
        "diffusers",
    )
    model_name, results = model_index_to_eval_results(data["model-index"])
    assert model_name == name and results
    for result in results:
        assert isinstance(result.metric_value, float) and result.metric_type and result.task_type in TASKS
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", result.dataset_type) and result.dataset_name
    assert len({(one.metric_type, one.metric_name, one.dataset_split) for one in results}) == len(results)


@pytest.mark.parametrize("name", MODELS)
def test_code_runs_as_it_stands(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (HUB / name / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    space = {}
    for block in blocks:
        exec(compile(block, name, "exec"), space)
    printed = capsys.readouterr().out
    if "llava" in space:
        assert printed.strip(" []'\n").isalpha()  # one word


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_there(name):
    text = (HUB / name / "README.md").read_text(encoding="utf-8")
    for file in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text):
        assert Image.open(HUB / name / file).size[0] > 100
    assert ("examples.webp" in text) == name.endswith("sae")
