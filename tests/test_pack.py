import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub import Pack
from cbsae_hub.metrics.dissect import soft_wpmi
from cbsae_hub.pack import FILES, NeuronTable, PackError
from cbsae_hub.pack_builder import STRIP_SIZES, build_pack


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def pack(world):
    sae, encoder, judge, folder = world
    return build_pack(
        sae, encoder, judge, Pictures(), CONCEPTS, folder,
        source={"id": "halves", "split": "probe"}, truth_columns=["things.name", "side"], alt_column="caption",
        batch_size=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def latents(world):
    """All latents at once, dense: what the builder never holds. ``[images, tokens, neurons]``."""
    sae, encoder, *_ = world
    return sae.encode(encoder(Pictures()[:]["image"])).detach()


def test_names_are_those_of_the_plain_formula(world, pack, latents):
    _, _, judge, _ = world
    similarities = judge.embed_images(Pictures()[:]["image"]) @ judge.embed_texts(list(CONCEPTS)).T
    scores = soft_wpmi(latents.mean(1), similarities)
    for row in pack.neurons:
        if row.status == "dead":
            assert row.name is None and len(row.names) == 0
            continue
        best = scores[row.neuron].topk(5)
        assert row.score == pytest.approx(best.values[0].item(), abs=1e-4)
        np.testing.assert_allclose(row.scores, best.values, atol=1e-4)
        assert row.name == row.names[0]
    assert pack.neurons[5].status == "dead"


def test_activity_columns(pack, latents):
    flat, pooled = latents.flatten(0, 1), latents.mean(1)
    for row in pack.neurons:
        assert row.density == pytest.approx((pooled[:, row.neuron] > 0).float().mean().item())
        assert row.token_density == pytest.approx((flat[:, row.neuron] > 0).float().mean().item())
        assert row.max == pytest.approx(flat[:, row.neuron].max().item(), rel=1e-4)
        assert row.group == int(row.neuron >= 8)


def test_ground_truth_columns(pack, latents):
    pictures, pooled = Pictures(), latents.mean(1).numpy()
    labels = {c: [c in (a, b) for a, b in zip(pictures.colours, pictures.sides)] for c in CONCEPTS}
    rows = [row for row in pack.neurons if row.name]
    for row in rows:
        precisions = {c: average_precision_score(truth, pooled[:, row.neuron]) for c, truth in labels.items()}
        assert row.truth_ap == pytest.approx(max(precisions.values()), abs=1e-4)
        assert precisions[row.truth] == pytest.approx(row.truth_ap, abs=1e-4)
        assert row.truth_agrees == (row.truth == row.name)
    metrics = pack.info["metrics"]
    assert metrics["name_agreement"] == pytest.approx(np.mean([row.truth_agrees for row in rows]))
    clear = [row.truth_agrees for row in rows if row.truth_ap >= 0.5]
    assert metrics["name_agreement_clear"] == pytest.approx(np.mean(clear))


def test_reconstruction_in_the_facts(world, pack, latents):
    sae, encoder, *_ = world
    x = encoder(Pictures()[:]["image"]).flatten(0, 1)
    decoded = sae.decode(latents.flatten(0, 1)).detach()
    expected = 1 - (x - decoded).square().sum() / (x - x.mean(0)).square().sum()
    assert pack.info["metrics"]["explained_variance"] == pytest.approx(expected.item(), abs=1e-4)
    assert pack.info["metrics"]["l0"] == pytest.approx((latents > 0).float().sum(-1).mean().item(), abs=1e-4)


def test_examples_are_the_right_images_with_their_maps(pack, latents):
    pooled = latents.mean(1)
    for row in pack.neurons:
        values, order = pooled[:, row.neuron].sort(descending=True, stable=True)
        active = int((values > 0).sum())
        top = pack.examples(row.neuron, "top", limit=99)
        assert [e.image_id for e in top] == order[: min(active, STRIP_SIZES["top"])].tolist()
        shown = [e.image_id for strip in STRIP_SIZES for e in pack.examples(row.neuron, strip, 99)]
        assert len(shown) == len(set(shown)), "no image twice"
        for strip, low, high in (("p75", 0.6, 0.9), ("p50", 0.35, 0.65), ("p25", 0.1, 0.4)):
            for example in pack.examples(row.neuron, strip) if active >= 40 else []:
                place = (values[:active] <= example.activation + 1e-6).float().mean()
                assert low <= place <= high
        for example in top:
            expected = latents[example.image_id, :, row.neuron] / row.max
            np.testing.assert_allclose(example.patch_map.ravel(), expected, atol=0.003)
            assert example.activation == pytest.approx(pooled[example.image_id, row.neuron].item(), rel=1e-4)
            assert example.alt == Pictures().columns["caption"][example.image_id]
            difference = np.asarray(example.image, int) - np.asarray(Pictures()[example.image_id]["image"], int)
            assert np.abs(difference).mean() < 25, "WebP is lossy, not another picture"


def test_it_reads_back_from_disk_and_hides_nothing(world, pack):
    again = Pack.from_pretrained(world[3])
    pd.testing.assert_frame_equal(again.neurons.frame, pack.neurons.frame)
    assert again.grid == (2, 2)
    assert again.info["encoder"]["encoder_id"] == world[1].repo_id
    assert {path.suffix for path in world[3].iterdir()} <= {".json", ".parquet", ".safetensors", ".md"}


@pytest.mark.parametrize("file", FILES)
def test_damage_is_named(world, pack, tmp_path, file):
    for path in world[3].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(PackError, match=file.replace(".", r"\.")):
        Pack.from_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(PackError, match=f"lacks {file}"):
        Pack.from_pretrained(tmp_path)


def test_no_pack_and_other_versions_are_named(world, pack, tmp_path):
    with pytest.raises(PackError, match="training/build_pack.py"):
        Pack.from_pretrained(tmp_path)
    for content, message in (("{", "damaged"), (json.dumps({"schema_version": 99}), "99")):
        (tmp_path / "pack.json").write_text(content)
        with pytest.raises(PackError, match=message):
            Pack.from_pretrained(tmp_path)


def test_bad_requests_are_refused(world, pack):
    with pytest.raises(IndexError, match="0 to 31"):
        pack.neurons[32]
    with pytest.raises(IndexError):
        pack.examples(-1)
    with pytest.raises(ValueError, match="top, p75"):
        pack.examples(0, "nonsense")
    with pytest.raises(PackError, match="truth_ap"):
        NeuronTable(pack.neurons.frame.drop(columns="truth_ap"))
    sae, encoder, judge, folder = world
    with pytest.raises(ValueError, match="no probe images"):
        build_pack(sae, encoder, judge, Pictures(0), CONCEPTS, folder, source={})


def test_find_names_near_concepts_where_words_fail(world, pack):
    _, _, judge, _ = world
    named = {name for row in pack.neurons for name in row.names}
    found = pack.find(sorted(named)[0])
    assert found.matches and found.matches[0].concept == sorted(named)[0]
    nothing = pack.find("zzzzqqqq", embed_texts=judge.embed_texts)
    assert nothing.matches == [] and nothing.verdict == "not in this model"
    similarity = judge.embed_texts(list(CONCEPTS)) @ judge.embed_texts(["zzzzqqqq"])[0]
    expected = [CONCEPTS[i] for i in similarity.argsort(descending=True).tolist() if CONCEPTS[i] in named]
    assert nothing.nearest[0] == expected[0] and set(nothing.nearest) <= named
    assert pack.find("   ").matches == []
