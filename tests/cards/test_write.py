"""Cards are rendered from results files: numbers come from nowhere else, and nothing of other weights is told."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from small_hub import CONCEPTS, Pictures, make_hub, make_pack

from cbsae_hub import CBSAE, SAE
from cbsae_hub.cards import write as cards
from cbsae_hub.cards.facts import Facts, Measure, model_index
from cbsae_hub.cards.write import CardError, render_card, write_card
from cbsae_hub.models import folder_revision
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.scoring.scorer import ImageEmbedder

FRONT = "---\nlicense: mit\nmeasured_on: me/photos\n---\n"
NUMBERS = {"top1": 12.5, "scenes": 1234567, "share": 0.125}


@pytest.fixture
def folder(tmp_path):
    """An SAE that was trained, with what somebody measured."""
    torch.manual_seed(0)
    folder = tmp_path / "sae"
    SAE(8, 16, "topk", 2, encoder_id="me/encoder", layer=3, seed=1).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(NUMBERS))
    told = {"revision": folder_revision(folder), "config": {"steps": 77}, "seed": 5, "versions": {"torch": "2.0"}}
    told |= {"command": "python train.py --x 1", "commit": "abc123", "heldout": {"explained_variance": 0.4321}}
    (folder / "training.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def hand(tmp_path):
    def write(body, front=FRONT):
        path = tmp_path / "hand.md"
        path.write_text(front + body)
        return path

    return write


def card_of(folder):
    return (folder / "README.md").read_text()


def test_the_template_itself_holds_no_number():
    template = Path(cards.__file__).with_name("card.md.jinja").read_text()
    prose = re.sub(r"```.*?```|\{[{%#].*?[%#}]\}|`[^`]*`", "", template, flags=re.DOTALL)
    assert not re.findall(r"(?<!\w)\d+(?!\w)", prose)  # but for "sha256" and "99th percentile"


def test_numbers_come_from_the_files(folder, hand):
    story = "Right in {{ metrics.top1 | decimals(1) }} of {{ metrics.scenes }}, {{ metrics.share | share }}.\n"
    write_card(folder, "me/sae", hand(story + "\n## Limits\n\nOf {{ owner }}, {{ parameters() }} weights.\n"))
    card = card_of(folder)
    assert "Right in 12.5 of 1,234,567, 12.5 %." in card
    assert f"Of me, {sum(p.numel() for p in SAE.from_pretrained(folder).parameters())} weights." in card
    assert "python train.py --x 1" in card and "`abc123`" in card and "explained variance 0.432" in card
    assert '"steps": 77' in card and card.index("Right in") < card.index("## What it explains") < card.index(
        "## Limits"
    )


def test_results_in_the_metadata_come_from_measures(folder, hand):
    index = "model-index: [{name: it, results: [{task: {}, dataset: {}, metrics: [{value: '{{ metrics.top1 }}'}]}]}]"
    with pytest.raises(CardError, match="model-index is made of measures"):
        write_card(folder, "me/sae", hand("A story.\n", f"---\nlicense: mit\n{index}\n---\n"))


def test_metadata_may_hold_versions_and_sizes(folder, hand):
    front = "license: apache-2.0\nlicense_name: Llama 2\nsize_categories: [1K<n<10K]\nmeasured_by: try --steps 5\n"
    write_card(folder, "me/sae", hand("A story.\n", f"---\n{front}---\n"))
    assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"


def test_what_is_made_of_results_is_told(folder, hand):
    body = "Wrong in {{ 100 - metrics.top1 }}, {{ '%.1f' % metrics.top1 }}, {{ 100 * metrics.share }}, "
    body += "{{ [metrics.top1][0] }}{% if metrics.top1 > 50 %}, good{% endif %}.\n"
    write_card(folder, "me/sae", hand(body))
    assert "Wrong in 87.500, 12.5, 12.500, 12.500." in card_of(folder)


@pytest.mark.parametrize("name", ["ViT-L/14-336", "LLaVA-1.5", "`seed 3`", "[it](https://x.org/2512.10805)", "OFL-1.1"])
def test_names_and_code_may_hold_digits(folder, hand, name):
    write_card(folder, "me/sae", hand(f"As {name} does.\n"))
    assert name in card_of(folder)


@pytest.mark.parametrize(
    "body, said",
    [
        ("{{ metrics.top5 }}", "top5"),
        ("{{ metrics.top1", "end of template|expected"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|__class__"),
    ],
)
def test_an_expression_that_is_wrong_says_what_there_is(folder, hand, body, said):
    with pytest.raises(CardError, match=f"(?s)({said}).*top1"):
        write_card(folder, "me/sae", hand(body))


def test_a_page_that_was_written_on_windows_is_read(folder, hand):
    expected = hand("A story.\n\n## Limits\n\nFew.\n")
    write_card(folder, "me/sae", expected)
    before = card_of(folder)
    expected.write_bytes(expected.read_text().replace("\n", "\r\n").encode("utf-16"))
    write_card(folder, "me/sae", expected)
    assert card_of(folder) == before and "A story." in before


def test_metadata_must_be_there(folder, tmp_path):
    (tmp_path / "bare.md").write_text("No metadata.")
    with pytest.raises(CardError, match="must begin with its metadata"):
        write_card(folder, "me/sae", tmp_path / "bare.md")


def test_measures_become_results_of_the_hub(folder, hand):
    rows = "measures:\n- {metric: top1, key: accuracy, name: right, split: test, meaning: 'of {{ metrics.scenes }}'}\n"
    write_card(folder, "me/sae", hand("A story.\n", FRONT[:-4] + rows + "pipeline_tag: image-classification\n---\n"))
    (result,) = ModelCard.load(folder / "README.md").data.eval_results
    assert (result.metric_value, result.metric_type, result.dataset_type) == (12.5, "accuracy", "me/photos")
    assert (result.dataset_split, result.task_type) == ("test", "image-classification")
    assert "| right | 12.500 | of 1,234,567 |" in card_of(folder)


def test_results_of_a_model_of_this_package_need_no_task(folder, hand):
    rows = "measures:\n- {metric: top1, key: accuracy, name: right, meaning: of all}\n---\n"
    write_card(folder, "me/sae", hand("A story.\n", FRONT[:-4] + rows))
    (result,) = ModelCard.load(folder / "README.md").data.eval_results
    assert result.task_type == "feature-extraction"
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CardError, match="results on a data set need the task, pipeline_tag"):
        write_card(folder, "me/clip", hand("A story.\n", FRONT[:-4] + rows))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", "true", '"high"', '{"a": 1}'])
def test_what_is_no_number_is_no_measure(folder, hand, value):
    (folder / "metrics.json").write_text(f'{{"top1": {value}}}')
    rows = "measures:\n- {metric: top1, key: accuracy, name: right, meaning: of all}\n---\n"
    with pytest.raises(CardError, match="top1 of metrics.json cannot be measures, they are no numbers"):
        write_card(folder, "me/sae", hand("A story.\n", FRONT[:-4] + rows))


@pytest.mark.parametrize(
    "images, told",
    [
        ("me/photos", ("me/photos", "photos")),
        ("photos", ("photos", "photos")),
        ("/data/my photos/", ("my-photos", "my photos")),
        ("../photos", ("photos", "photos")),
        ("a/b/photos", ("photos", "photos")),
        ("package.scenes:draw", ("package.scenes-draw", "package.scenes:draw")),
    ],
)
def test_images_of_this_machine_are_named_as_the_hub_allows(images, told):
    (result,) = model_index([Measure("L0", "l0", 5.0, None, "active")], "feature-extraction", images, None)
    assert (result.dataset_type, result.dataset_name) == told


@pytest.mark.parametrize("name", ["../it", "./it", "-me/it", "me/it--2", "me/it.git", "/data/it", "it"])
def test_the_metadata_has_no_ids_that_the_hub_refuses(folder, name):
    facts = Facts.read(folder)
    facts.config.update(encoder_id=name, training_data=name)
    data = ModelCard(render_card(facts, "me/sae")).data
    assert data.base_model is None and data.datasets is None
    facts.config.update(encoder_id="me/it", training_data="me/it")
    data = ModelCard(render_card(facts, "me/sae")).data
    assert data.base_model == "me/it" and data.datasets == ["me/it"]


def test_nobody_is_the_owner_of_a_folder(folder, hand):
    with pytest.raises(CardError, match="'owner' is undefined"):
        write_card(folder, "sae", hand("A story.\n", "---\ndatasets: ['{{ owner }}/photos']\n---\n"))


def test_the_part_by_hand_stays_while_the_weights_do(folder, hand):
    write_card(folder, "me/sae", hand("A story of it.\n\n## Limits\n\nMany.\n"))
    write_card(folder, "you/other")
    card = card_of(folder)
    assert "A story of it." in card and "## Limits\n\nMany." in card and "from_pretrained('you/other')" in card
    assert ModelCard.load(folder / "README.md").data.license == "mit"
    SAE(8, 16, "topk", 2, seed=2).save_pretrained(folder)
    assert "A story of it." not in card_of(folder) and "license" not in card_of(folder)


def test_results_of_other_weights_are_left_out(folder, caplog):
    write_card(folder)
    assert "explained variance 0.432" in card_of(folder)
    SAE(8, 16, "topk", 2, seed=2).save_pretrained(folder)
    assert "explained variance" not in card_of(folder)
    assert "training.json is of other weights" in caplog.text


def test_metrics_of_other_weights_are_left_out(folder, hand, caplog):
    (folder / "metrics.json").write_text(json.dumps(NUMBERS | {"revision": folder_revision(folder)}))
    write_card(folder, "me/sae", hand("Right in {{ metrics.top1 }}.\n"))
    (folder / "metrics.json").write_text(json.dumps(NUMBERS | {"revision": "sha256:0123456789abcdef"}))
    with pytest.raises(CardError, match="top1.*metrics.json has nothing"):
        write_card(folder, "me/sae", hand("Right in {{ metrics.top1 }}.\n"))
    assert "metrics.json is of other weights" in caplog.text


def test_a_card_edited_by_hand_is_kept(folder):
    (folder / "README.md").write_text(card_of(folder).replace("# sae", "# The best one"))
    write_card(folder, "me/other")
    assert "# The best one" in card_of(folder) and "me/other" not in card_of(folder)


def test_a_card_in_another_encoding_is_kept(folder):
    (folder / "README.md").write_bytes("Für alle\n".encode("latin-1"))
    write_card(folder)
    SAE(8, 16, "topk", 2, seed=2).save_pretrained(folder)
    assert (folder / "README.md").read_bytes() == "Für alle\n".encode("latin-1")


@pytest.mark.parametrize("content", ["{", "[1]", '{"revision": 1'])
def test_a_damaged_results_file_is_named_and_the_card_stays(folder, content):
    before = card_of(folder)
    (folder / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics.json.*write it again, or delete it"):
        write_card(folder)
    assert card_of(folder) == before


def test_a_pack_that_lacks_what_packs_have_is_an_error(folder):
    (folder / "pack.json").write_text(json.dumps({"model": {"revision": folder_revision(folder)}, "scores": {}}))
    with pytest.raises(ValueError, match="not what this package writes.*judge"):
        write_card(folder)


def test_text_in_results_stays_text(folder):
    facts = Facts.read(folder)
    facts.training["versions"] = {"torch": "`\n\n# Owned <script>"}
    facts.training["config"] = {"name": "```\n# Owned"}
    facts.training["command"] = "train\n```\n\n<b>Owned</b>\n\n```sh"
    card = render_card(facts, "me/sae")
    assert "<b>" in card and "<b>" not in re.sub(r"^```.*?^```", "", card, flags=re.DOTALL | re.MULTILINE)
    assert "\n# Owned" not in card and "<script>" not in re.sub(r"`[^`\n]*`", "", card)


def test_every_figure_of_a_pack_is_on_the_card(tmp_path):
    """Of a real pack: each measure's value stands in the model-index as in pack.json, to the last digit."""
    sae, encoder, judge, folder = make_hub(tmp_path)
    images = Pictures()
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(images, {}))
    make_pack(scorer, images, folder, source={"id": "me/pictures", "split": "all"})
    write_card(folder, "me/sae")
    scores = json.loads((folder / "pack.json").read_text())["scores"]
    told = {result.metric_type: result for result in ModelCard.load(folder / "README.md").data.eval_results}
    expected = {
        "explained_variance": scores["reconstruction"]["explained_variance"],
        "l0": scores["reconstruction"]["l0"],
        "dead_share": scores["shares"]["dead"],
        "clip_dissect": scores["interpretability"]["mean_score"],
        "monosemanticity": scores["monosemanticity"]["mean"],
    }
    assert {name: told[name].metric_value for name in expected} == expected
    assert {(one.dataset_type, one.dataset_split) for one in told.values()} == {("me/pictures", "all")}


def test_each_measure_names_its_own_judge(tmp_path):
    sae, encoder, judge, folder = make_hub(tmp_path)
    images = Pictures()
    similarity = ImageEmbedder(encoder)
    scorer = NeuronScorer(
        sae, encoder, judge, {"colours": CONCEPTS}, similarity=similarity, truth=Truth.read(images, {})
    )
    make_pack(scorer, images, folder, source={"id": "me/pictures", "split": "all"})
    facts = Facts.read(folder)
    facts.pack["scores"]["steerability"] = {
        "alpha": 5,
        "unit": "absolute",
        "sentences": "me/sentences",
        "llava": {"id": "me/llava", "revision": "l1"},
        "unclip": {"id": "me/unclip", "revision": "u1"},
        "pictures": {"id": "me/dino", "revision": "d1"},
        "text_unit": {"mean": 0.5},
        "image_unit": {"mean": 0.25},
    }
    meaning = {one.key: one.meaning for one in facts.measures()}
    assert f"judge {Path(judge.repo_id).name} at {judge.revision};" in meaning["clip_dissect"]
    assert f"judge {Path(encoder.repo_id).name} at {encoder.revision};" in meaning["monosemanticity"]
    assert "first word of me/llava at l1" in meaning["steerability_text_unit"]
    assert "what me/unclip at u1 draws" in meaning["steerability_image_unit"]
    assert "judge me/dino at d1" in meaning["steerability_image_unit"]
    assert facts.speaker == "me/llava"
    del facts.pack["scores"]["monosemanticity"]["judge"]
    assert "judge (not recorded);" in {one.key: one.meaning for one in facts.measures()}["monosemanticity"]


WHOLE = [
    ("/home/somebody/secret/clip", "clip"),
    ("~/secret/clip", "clip"),
    ("C:\\Users\\somebody\\secret\\clip", "clip"),
    ("/home/somebody/secret/with blanks/clip/", "clip"),
    ("me/clip", "me/clip"),
    ("hub/secret", "hub/secret"),
]


@pytest.mark.parametrize(("encoder", "told"), WHOLE)
def test_of_a_whole_path_a_card_tells_the_last_name(tmp_path, encoder, told):
    sae = SAE(8, 16, "topk", 2, encoder_id=encoder, layer=3, seed=1, training_data={"id": encoder, "split": "train"})
    sae.save_pretrained(tmp_path / "sae")
    record = {"revision": folder_revision(tmp_path / "sae"), "seed": 5, "versions": {}, "config": {}}
    record["command"] = "python /home/somebody/secret/train.py --set output=/home/somebody/secret/out --steps 3"
    (tmp_path / "sae" / "training.json").write_text(json.dumps(record))
    write_card(tmp_path / "sae")
    card = card_of(tmp_path / "sae")
    assert f"activations of {told}" in card.replace("\\", "") and "somebody" not in card
    assert "python train.py --set output=out --steps 3" in card
    if told != encoder:
        assert "secret" not in str(sae.generate_model_card())
    assert SAE.from_pretrained(tmp_path / "sae").encoder_id == encoder, "here it is still found"


def test_a_name_that_begins_with_a_slash_is_no_path(tmp_path):
    sae = SAE(8, 16, "topk", 2, seed=1)
    CBSAE.from_sae(sae, range(4), ["/m/0k4j", "/r/cats"], 1).save_pretrained(tmp_path)
    assert "/m/0k4j, /r/cats" in card_of(tmp_path)
