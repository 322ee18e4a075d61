"""The truth of hub/ about itself: the published splits, and the figures beside the encoders."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from cbsae_hub import CBSAE, SAE, ConceptSet, Pack
from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.models import folder_revision
from cbsae_hub.neurons.pruning import prune
from cbsae_hub.neurons.selection import select_concepts
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.pipeline.sections import CBSAESection
from training.emoji_world import evaluate
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import kind_of
from training.emoji_world.glyphs import Concept
from training.emoji_world.make_images import FEATURES, LAND_ANIMALS, SPLITS, SPURIOUS, WATER_ANIMALS
from training.emoji_world.paths import HUB, ROOT


@pytest.mark.parametrize("split", [*SPLITS, *SPURIOUS])
def test_splits_hold_what_the_card_says(split):
    dataset = load_images(HUB / "emoji-images", split)
    truth = dataset.remove_columns("image").to_pandas()
    count, spec = SPLITS.get(split, (SPURIOUS.get(split, (0,))[0], None))
    assert len(dataset) == count and dataset.features == FEATURES
    assert dataset[0]["image"].size == (64, 64)
    assert set(truth["background"]) <= set(BACKGROUNDS)
    style = split.removeprefix("test_") if split.startswith("test_") else "plain"
    assert set(truth["style"]) == {style}
    assert truth["written_word"].notna().all() == (split == "typographic")
    names = [{thing["name"] for thing in things} for things in truth["objects"]]
    assert not any(word in present for word, present in zip(truth["written_word"], names))
    boxes = np.array([thing["box"] for things in truth["objects"] for thing in things])
    assert boxes.min() >= 0 and boxes.max() <= 64 and (boxes[:, 2:] >= boxes[:, :2]).all()
    if spec is not None:
        assert {len(present) for present in names} == set(spec.objects)
        assert truth["spurious_group"].isna().all()
        return
    water = np.array([things[0]["subgroup"] in WATER_ANIMALS for things in truth["objects"]])
    assert (water | [things[0]["subgroup"] in LAND_ANIMALS for things in truth["objects"]]).all()
    in_water = (truth["background"] == "water").to_numpy()
    np.testing.assert_array_equal(truth["spurious_group"], 2 * water + in_water)
    assert abs((water == in_water).mean() - SPURIOUS[split][1]) < 0.08


@pytest.mark.parametrize("name", ["emoji-clip", "emoji-teacher", "emoji-judge"])
def test_zero_shot_figures_can_be_measured_again(name, monkeypatch):
    published = json.loads((HUB / name / "metrics.json").read_text())
    assert published["concepts"] == 424 and published["revision"] == folder_revision(HUB / name)
    monkeypatch.setattr(evaluate, "ANSWERED", ("test_pixelated",))
    with torch.inference_mode():
        if name == "emoji-clip":
            measured = evaluate.zero_shot(*evaluate.transformers_clip(HUB / name))
        else:
            judge = ClipLike.from_pretrained(HUB / name)
            measured = evaluate.zero_shot(judge.embed_images, judge.embed_texts)
    assert measured["top1_test_pixelated"] == pytest.approx(published["top1_test_pixelated"], abs=0.5)


def test_neighbours_of_the_self_supervised_encoder_can_be_measured_again():
    published = json.loads((HUB / "emoji-dino" / "metrics.json").read_text())
    with torch.inference_mode():
        measured = evaluate._dino(HUB / "emoji-dino")
    assert published.pop("revision") == folder_revision(HUB / "emoji-dino")
    assert measured == pytest.approx(published, abs=0.1)
    assert published["knn_top1"] > published["knn_top1_pixels"]


def test_the_tree_and_the_kinds_are_those_of_the_scenes():
    tree = ConceptTree.load(HUB / "emoji-images" / "hierarchy.json")
    things = {
        (thing["name"], thing["group"], thing["subgroup"])
        for row in load_images(HUB / "emoji-images", "probe")["objects"]
        for thing in row
    }
    assert {name for name, *_ in things} == set(tree.leaves)
    for name, group, subgroup in things:
        above = tree.ancestors(name)
        assert above == {name: 0, f"subgroup: {subgroup}": 1, f"group: {group}": 2, "everything": 3}
    kinds = (HUB / "emoji-images" / "kinds.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert set(kinds) == {kind_of(Concept(name, "", group, subgroup)) for name, group, subgroup in things}


def test_what_the_pack_says_of_the_model_is_what_its_table_says():
    pack = Pack.from_pretrained(HUB / "emoji-sae")
    frame, published = pack.neurons.frame, pack.info["scores"]
    with_name = frame[frame["name"].notna()]
    assert published["truth"]["name_agreement"] == pytest.approx(with_name["truth_agrees"].mean())
    assert published["monosemanticity"]["mean"] == pytest.approx(frame["monosemanticity"].mean())
    assert published["monosemanticity"]["undefined"] == frame["monosemanticity"].isna().sum()
    assert published["coverage"]["emoji"]["named"] == with_name["name"].nunique()
    assert published["shares"]["dead"] == pytest.approx((frame["density"] == 0).mean())
    assert pack.info["encoder"]["encoder_revision"] == folder_revision(HUB / "emoji-clip")
    assert pack.info["judge"]["revision"] == folder_revision(HUB / "emoji-teacher")


def test_the_bottleneck_is_what_is_left_of_the_sae_and_what_that_lacks():
    sae, cb = SAE.from_pretrained(HUB / "emoji-sae"), CBSAE.from_pretrained(HUB / "emoji-cbsae")
    keep = cb.sae_neuron_ids
    assert torch.equal(cb.sae.W_dec, sae.W_dec[keep]) and torch.equal(cb.sae.W_enc, sae.W_enc[:, keep])
    assert torch.equal(cb.sae.b_dec, sae.b_dec) and torch.equal(cb.sae.b_enc, sae.b_enc[keep])
    assert cb.parent["revision"] == folder_revision(HUB / "emoji-sae")
    assert cb.teacher["revision"] == folder_revision(HUB / "emoji-teacher")
    published = json.loads((HUB / "emoji-cbsae" / "selection.json").read_text(encoding="utf-8"))["concepts"]
    assert {row["concept"] for row in published} == set(ConceptSet.load(HUB / "emoji-images" / "concepts.txt"))
    assert [row["concept"] for row in published if row["where"] == "bottleneck"] == cb.concepts
    names = dict(zip(keep, cb.neuron_names))
    assert all(names[row["neuron"]] == row["concept"] for row in published if row["where"] == "sae")


def test_the_bottleneck_was_pruned_by_the_table_that_is_published():
    settings = CBSAESection.read(ROOT / "training" / "recipes" / "emoji.yaml")
    assert ROOT / settings.scores == HUB / "emoji-sae", "only a published table can be checked"
    table, cb = NeuronTable.read(HUB / "emoji-sae"), CBSAE.from_pretrained(HUB / "emoji-cbsae")
    pruned = prune(table.frame, **settings.prune.to_dict(defaults=False))
    assert cb.sae_neuron_ids == pruned.keep
    assert cb.neuron_names[: cb.d_sae] == table.frame["name"][pruned.keep].tolist()
    candidates = ConceptSet.load(ROOT / settings.concepts)
    concepts, report = select_concepts(list(candidates), table.frame, pruned.keep, settings.min_percentile)
    assert cb.concepts == concepts
    published = json.loads((HUB / "emoji-cbsae" / "selection.json").read_text(encoding="utf-8"))
    assert published["pruning"] == pruned.settings
    pd.testing.assert_frame_equal(pd.DataFrame(published["parts"]), pruned.report)
    pd.testing.assert_frame_equal(pd.DataFrame(published["concepts"]), report, check_dtype=False)
