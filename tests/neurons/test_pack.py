import copy
import io
import json
import pickle
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Features, List, Value
from PIL import Image
from scipy import sparse
from small_hub import CONCEPTS, Pictures, make_bottleneck, make_hub, make_pack
from tiny_models import build, processor

from cbsae_hub import SAE, Pack
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.metrics import soft_wpmi
from cbsae_hub.neurons.icons import SIDE, firing_part
from cbsae_hub.neurons.pack import FILES, ICONS, NeuronTable, PackError
from cbsae_hub.scoring import NeuronScorer, Scores, Truth
from cbsae_hub.scoring.build_pack import build_pack, caption_column, thumbnails
from cbsae_hub.scoring.examples import STRIP_SIZES, choose_examples


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_hub(tmp_path_factory.mktemp("hub"))


def scorer_of(world, pictures):
    sae, encoder, judge, _ = world
    truth = Truth.read(pictures, {"colour": "things.name", "side": "side"})
    return NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=truth)


@pytest.fixture(scope="module")
def pack(world):
    source = {"id": "halves", "split": "probe"}
    scorer = scorer_of(world, Pictures())
    return make_pack(scorer, Pictures(), world[3], source=source, alt_column="caption", batch_size=10)


@pytest.fixture(scope="module")
def latents(world):
    """All latents at once, dense: what the builder never holds. ``[images, tokens, neurons]``."""
    sae, encoder, *_ = world
    return sae.encode(encoder(Pictures()[:]["image"])).detach()


def test_names_are_those_of_the_plain_formula(world, pack, latents):
    _, _, judge, _ = world
    similarities = judge.embed_images(Pictures()[:]["image"]) @ judge.embed_texts(list(CONCEPTS)).T
    scores = soft_wpmi(latents.mean(1), similarities, count_silent=False)
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
        positive = flat[:, row.neuron][flat[:, row.neuron] > 0].numpy()
        edges = row.histogram_low * 2.0 ** (np.arange(len(row.histogram) + 1) / 4)
        assert list(row.histogram) == (np.histogram(positive, edges)[0].tolist() if len(positive) else [])
        assert sum(row.histogram) == len(positive)
        assert row.group == int(row.neuron >= 8)


def test_reconstruction_in_the_facts(world, pack, latents):
    sae, encoder, *_ = world
    x = encoder(Pictures()[:]["image"]).flatten(0, 1)
    decoded = sae.decode(latents.flatten(0, 1)).detach()
    expected = 1 - (x - decoded).square().sum() / (x - x.mean(0)).square().sum()
    assert pack.info["scores"]["reconstruction"]["explained_variance"] == pytest.approx(expected.item(), abs=1e-4)
    assert pack.info["scores"]["reconstruction"]["l0"] == pytest.approx(
        (latents > 0).float().sum(-1).mean().item(), abs=1e-4
    )


def test_examples_are_the_right_images_with_their_maps(pack, latents):
    pooled = latents.mean(1)
    for row in pack.neurons:
        values, order = pooled[:, row.neuron].sort(descending=True, stable=True)
        active = int((values > 0).sum())
        top = pack.examples(row.neuron, "top", limit=99)
        assert [e.image_id for e in top] == order[: min(active, STRIP_SIZES["top"])].tolist()
        shown = [e.image_id for strip in STRIP_SIZES for e in pack.examples(row.neuron, strip, 99)]
        if active >= sum(STRIP_SIZES.values()):
            assert len(shown) == len(set(shown)), "no image twice"
        drawn = pack.examples(row.neuron, "random", 99)
        assert len(drawn) == min(active, STRIP_SIZES["random"]) == len({e.image_id for e in drawn})
        assert {e.image_id for e in drawn} <= set(order[:active].tolist())
        assert [e.activation for e in drawn] == sorted((e.activation for e in drawn), reverse=True)
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


def test_random_examples_are_drawn_evenly_and_the_same_again():
    """All images on which a neuron fires have the same chance, but for those of the other strips."""
    latents = sparse.csc_matrix(np.tile(np.arange(100, 0, -1.0)[:, None], (1, 600)))
    frame = choose_examples(latents)
    drawn = frame[frame["strip"] == "random"]
    others = set(frame.loc[(frame["strip"] != "random") & (frame["neuron"] == 0), "image"])
    counts = drawn["image"].value_counts()
    assert set(counts.index) == set(range(100)) - others
    expected = 600 * STRIP_SIZES["random"] / (100 - len(others))
    assert abs(counts - expected).max() < 5 * expected**0.5
    pd.testing.assert_frame_equal(frame, choose_examples(latents))
    few = choose_examples(sparse.csc_matrix(np.array([[1.0], [3.0], [0.0], [2.0]])))
    assert few.loc[few["strip"] == "random", "image"].tolist() == [1, 3, 0], "few: all of them, strongest first"


def test_images_without_a_caption_have_an_alternative_text_all_the_same(world, tmp_path):
    pictures = Pictures()
    pictures.columns["caption"][::2] = [None] * 24
    pack = make_pack(scorer_of(world, pictures), pictures, tmp_path, source={}, alt_column="caption")
    for image in pack.image_ids():
        assert pack.alt(image) == (pictures.columns["caption"][image] or f"probe image {image}")


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (List(Value("string")), [["a cat.", "one cat", "a cat."], []], ["a cat.; one cat", "probe image 1"]),
        (ClassLabel(names=["cat", "dog"]), [1, 0], ["dog", "cat"]),
        (Value("float64"), [3.0, None], ["3", "probe image 1"]),
        (Value("string"), [" ", "x"], ["probe image 0", "x"]),
    ],
)
def test_several_captions_are_joined_and_classes_are_named(kind, values, expected):
    pictures = [Image.new("L", (4, 4))] * 2
    features = Features({"image": datasets.Image(), "says": kind})
    images = datasets.Dataset.from_dict({"image": pictures, "says": values}, features)
    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"))
    alt = thumbnails(images, [0, 1], "says", encoder)["alt"]
    assert alt.tolist() == expected and json.dumps(alt.tolist())


def test_records_as_captions_are_refused():
    with pytest.raises(ValueError, match=r"column 'things' cannot say what an image shows: here are records"):
        caption_column(Pictures(), "things")


def test_a_column_of_captions_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no column 'captoin' that says what they show; they have .*caption"):
        caption_column(Pictures(), "captoin")
    pictures = Pictures()
    del pictures.columns["caption"]
    assert caption_column(pictures) is None, "the default need not be there"


def test_scores_from_disk_make_the_same_pack_in_one_pass_over_the_examples(world, pack, tmp_path):
    sae, encoder, _, folder = world
    scorer = scorer_of(world, Pictures())
    scorer.run(Pictures(), 10)
    scorer.results().save(tmp_path / "scores", settings={"judge": "me/judge"}, n_images=48)
    scores, read, pixel_values = Scores.load(tmp_path / "scores"), [], encoder.pixel_values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "pixel_values", lambda pictures: read.append(len(pictures)) or pixel_values(pictures))
        again = build_pack(scores, sae, encoder, Pictures(), tmp_path, source=pack.info["images"], batch_size=32)
    assert sum(read) == scores.examples["image"].nunique() and max(read) == 32
    pd.testing.assert_frame_equal(again.neurons.frame, pack.neurons.frame)
    for file in ("examples.parquet", "images.parquet", "vocabulary.safetensors"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file
    assert np.abs(again._maps.astype(int) - pack._maps.astype(int)).max() <= 1, "another batch size rounds otherwise"
    strange = ("files", "model", "package_version")
    assert {k: v for k, v in again.info.items() if k not in strange} == {
        k: v for k, v in pack.info.items() if k not in strange
    }


def test_a_pack_that_was_killed_goes_on_where_it_was(world, pack, tmp_path, monkeypatch):
    sae, encoder, _, folder = world
    scorer = scorer_of(world, Pictures())
    scorer.run(Pictures(), 10)
    scores, read, pixel_values = scorer.results(), [], encoder.pixel_values

    def killed_at(count):
        def look(pictures):
            if len(read) == count:
                raise KeyboardInterrupt
            read.append(len(pictures))
            return pixel_values(pictures)

        return look

    monkeypatch.setattr("cbsae_hub.scoring.build_pack.CHECKPOINT_EVERY", 2)
    build = partial(build_pack, scores, sae, encoder, Pictures(), tmp_path, source=pack.info["images"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoder, "pixel_values", killed_at(5))
        build(batch_size=4)
    assert not (tmp_path / "pack.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "pixel_values", killed_at(-1))
        again = build(batch_size=4)
    assert sum(read[:5]) == 20 and sum(read[5:]) == scores.examples["image"].nunique() - 16
    assert np.abs(again._maps.astype(int) - pack._maps.astype(int)).max() <= 1, "another batch size rounds otherwise"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left behind"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoder, "pixel_values", killed_at(len(read) + 3))
        build(batch_size=4)
    before = len(read)
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "pixel_values", killed_at(-1))
        build(batch_size=8)  # what is there is of other settings
    assert sum(read[before:]) == scores.examples["image"].nunique()


def test_scores_of_something_else_make_no_pack(world, pack, tmp_path):
    sae, encoder, judge, folder = world
    scorer = scorer_of(world, Pictures())
    scorer.run(Pictures())
    scores = scorer.results()
    with pytest.raises(ValueError, match="of other images: here are 5"):
        build_pack(scores, sae, encoder, Pictures(5), tmp_path, source={})
    other = replace(scores, summary={**scores.summary, "model": {**scores.summary["model"], "revision": "sha256:0"}})
    with pytest.raises(ValueError, match="of another model, sha256:0, not of sha256:"):
        build_pack(other, SAE.from_pretrained(folder), encoder, Pictures(), folder, source={})
    blind = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS})
    blind.run(Pictures())
    with pytest.raises(ValueError, match="no examples: score with truth"):
        build_pack(blind.results(), sae, encoder, Pictures(), tmp_path, source={})


def test_it_reads_back_from_disk_and_hides_nothing(world, pack):
    again = Pack.from_pretrained(world[3])
    pd.testing.assert_frame_equal(again.neurons.frame, pack.neurons.frame)
    assert again.grid == (2, 2)
    assert again.info["encoder"]["encoder_id"] == world[1].repo_id
    assert {path.suffix for path in world[3].iterdir()} <= {".json", ".parquet", ".safetensors", ".md"}


def test_a_pack_of_a_concept_bottleneck_sae(world, tmp_path):
    sae, encoder, judge, folder = world
    cb = make_bottleneck(sae, encoder, folder.parent)
    pack = make_pack(scorer_of((cb, encoder, judge, folder), Pictures()), Pictures(), tmp_path, source={})
    z = cb.encode(encoder(Pictures()[:]["image"])).detach()
    read = cb.select_concepts(z[..., cb.d_sae :])
    for neuron in range(cb.d_sae, cb.d_latent):
        pooled, row = z.mean(1)[:, neuron], pack.neurons[neuron]
        top = pack.examples(neuron, "top", limit=99)
        assert [e.image_id for e in top] == pooled.argsort(descending=True)[: len(top)].tolist()
        assert len(top) == min(int((pooled > 0).sum()), STRIP_SIZES["top"]) > 0
        for example in top:
            expected = read[example.image_id, :, neuron - cb.d_sae] / row.max
            np.testing.assert_allclose(example.patch_map.ravel(), expected, atol=0.003)


def test_files_have_the_usual_permissions(world, pack):
    (world[3] / "plain.md").touch()
    mode = (world[3] / "plain.md").stat().st_mode
    assert {path.name for path in world[3].iterdir() if path.stat().st_mode != mode} == set()


@pytest.mark.parametrize("file", [*FILES, ICONS])
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
    with pytest.raises(PackError, match="make it with `cbsae pack`"):
        Pack.from_pretrained(tmp_path)
    for content, message in (("{", "damaged"), (json.dumps({"schema_version": 99}), "99")):
        (tmp_path / "pack.json").write_text(content)
        with pytest.raises(PackError, match=message):
            Pack.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "part", ["files", "model", "encoder", "judge", "naming", "images", "concepts", "scores", "grid"]
)
def test_facts_that_are_not_there_are_named(world, pack, tmp_path, part):
    for path in world[3].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for bad in ({}, {part: "x"}):
        (tmp_path / "pack.json").write_text(json.dumps({n: v for n, v in pack.info.items() if n != part} | bad))
        with pytest.raises(PackError, match=rf"pack\.json is damaged: no good {part} in it"):
            Pack.from_pretrained(tmp_path)
    (tmp_path / "pack.json").write_text("[]")
    with pytest.raises(PackError, match="no JSON object"):
        Pack.from_pretrained(tmp_path)


def pixels(icon):
    return np.asarray(Image.open(io.BytesIO(icon)).convert("RGB"), int)


def test_every_neuron_that_fires_has_an_icon_cut_from_the_image_itself(world, pack):
    for row in pack.neurons:
        best = pack.examples(row.neuron, "top", 1)
        if not best:
            assert pack.icon(row.neuron) is None and row.status == "dead"
            continue
        image = Pictures()[best[0].image_id]["image"]
        shown = pixels(pack.icon(row.neuron))
        assert shown.shape == (SIDE, SIDE, 3)
        assert np.abs(shown - np.asarray(firing_part(image, best[0].patch_map), int)).mean() < 12, "WebP is lossy"
        assert pack.icon(row.neuron, "drawn") is None, "nothing was drawn"
    with pytest.raises(ValueError, match="crop, drawn"):
        pack.icon(0, "painted")
    with pytest.raises(IndexError):
        pack.icon(99)


def test_packs_without_icons_cut_them_from_their_examples(world, pack, tmp_path):
    for path in world[3].iterdir():
        if path.name != ICONS:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    files = {name: digest for name, digest in pack.info["files"].items() if name != ICONS}
    (tmp_path / "pack.json").write_text(json.dumps({**pack.info, "files": files}))
    older = Pack.from_pretrained(tmp_path)
    for row in pack.neurons:
        icon = older.icon(row.neuron)
        assert (icon is None) == (row.status == "dead")
        assert icon is None or np.abs(pixels(icon) - pixels(pack.icon(row.neuron))).mean() < 25


def test_what_was_drawn_of_neurons_is_in_the_pack(world, pack, tmp_path):
    sae, encoder, *_ = world
    scorer = scorer_of(world, Pictures())
    scorer.run(Pictures(), 10)
    drawer = SimpleNamespace(
        settings=lambda scores: {"steps": 10}, draw=lambda scores, partial: partial.mkdir() or {3: b"three"}
    )
    drawn = build_pack(scorer.results(), sae, encoder, Pictures(), tmp_path, source={}, drawer=drawer)
    assert drawn.icon(3, "drawn") == b"three" and drawn.icon(4, "drawn") is None
    assert drawn.icon(4) == pack.icon(4) and drawn.info["icons"] == {"steps": 10}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left behind"


def test_it_can_be_sent_to_another_process(world, pack):
    there = pickle.loads(pickle.dumps(pack))
    pd.testing.assert_frame_equal(there.neurons.frame, pack.neurons.frame)
    assert there.info == pack.info
    image = pack.image_ids()[0]
    assert (there.image_bytes(image), there.alt(image)) == (pack.image_bytes(image), pack.alt(image))
    assert there.neurons.find("red") == pack.neurons.find("red") != []


def test_neurons_are_looked_up_by_whole_numbers_of_any_type(pack):
    for number in (np.int64(3), torch.tensor(3), *torch.tensor([3])):
        assert pack.neurons[number] is pack.neurons[3]
        assert [e.image_id for e in pack.examples(number)] == [e.image_id for e in pack.examples(3)] != []
    with pytest.raises(TypeError, match="slice"):
        pack.neurons[1:3]


def test_bad_requests_are_refused(world, pack):
    with pytest.raises(IndexError, match="0 to 31"):
        pack.neurons[32]
    with pytest.raises(IndexError):
        pack.examples(-1)
    with pytest.raises(ValueError, match="top, p75"):
        pack.examples(0, "nonsense")
    with pytest.raises(PackError, match="truth_ap"):
        NeuronTable(pack.neurons.frame.drop(columns="truth_ap"))
    with pytest.raises(ValueError, match="no probe images"):
        make_pack(scorer_of(world, Pictures(0)), Pictures(0), world[3], source={})
    with pytest.raises(PackError, match="`cbsae score` makes one"):
        NeuronTable.read("nowhere")


@pytest.fixture
def table(pack):
    frame = pack.neurons.to_pandas()
    return NeuronTable(frame.assign(score=frame["score"].where(frame["neuron"] != 3)))  # one without a score


def test_filtering_is_what_a_loop_finds(table):
    rows = list(table)
    median = float(np.nanmedian(table.frame["score"]))
    cases = {
        (("status", "dead"),): lambda r: r.status == "dead",
        (("score", (median, None)),): lambda r: r.score >= median,
        (("score", (None, median)), ("group", 1)): lambda r: r.score <= median and r.group == 1,
        (("score", (None, None)),): lambda r: not np.isnan(r.score),
        (("name", None),): lambda r: r.name is None,
        (("name", frozenset(["red", "left"])),): lambda r: r.name in ("red", "left"),
    }
    for conditions, by_hand in cases.items():
        expected = [r.neuron for r in rows if by_hand(r)]
        assert table.filter(**dict(conditions)).frame["neuron"].tolist() == expected, conditions
    alive = table.filter(status=["alive", "rare"])
    assert alive[alive.frame["neuron"].iloc[-1]].neuron == alive.frame["neuron"].iloc[-1]
    with pytest.raises(IndexError, match="no neuron 5"):
        alive[5]
    with pytest.raises(ValueError, match="no column 'sore'; there are neuron"):
        table.filter(sore=1)


def test_sorting_puts_the_undefined_last(table):
    for ascending in (True, False):
        rows = list(table.sort("score", ascending))
        assert rows[-1].neuron == 3
        keys = [((r.score if ascending else -r.score), r.neuron) for r in rows[:-1]]
        assert keys == sorted(keys)
    with pytest.raises(ValueError, match="no column"):
        table.sort("sore")


def test_joining_two_tables(table):
    others = table.filter(group=1)
    joined = table.join(others, suffixes=("_here", "_there"))
    assert joined["neuron"].tolist() == others.frame["neuron"].tolist()
    np.testing.assert_array_equal(joined["score_here"], joined["score_there"])
    pairs = table.join(others, on="name")[["neuron_a", "neuron_b"]].to_numpy().tolist()
    expected = [[a.neuron, b.neuron] for a in table for b in others if a.name and a.name == b.name]
    assert sorted(pairs) == sorted(expected)
    with pytest.raises(ValueError, match="neuron or name"):
        table.join(others, on="score")


def test_a_table_alone_can_be_read(world, pack, tmp_path):
    again = NeuronTable.read(world[3])
    pd.testing.assert_frame_equal(again.frame, pack.neurons.frame)
    (tmp_path / "neurons.parquet").write_bytes(b"PAR1")
    with pytest.raises(PackError, match="damaged"):
        NeuronTable.read(tmp_path)


def test_find_names_near_concepts_where_words_fail(world, pack):
    _, _, judge, _ = world
    named = {name for row in pack.neurons for name in row.names}
    found = pack.find(sorted(named)[0])
    assert found.matches and found.matches[0].concept == sorted(named)[0]
    blind = pack.find("zzzzqqqq")
    assert blind.matches == [] and blind.verdict == "not in this model" and blind.near_by == "spelling"
    assert pack.find("   ").matches == []


def test_patch_maps_need_not_be_square(tmp_path):
    """24 x 16 pixels are 3 rows of 2 patches; a map has its rows and columns as the picture has."""
    sae, encoder, judge, folder = make_hub(tmp_path, "Dinov2Model", processor("Dinov2Model", 24, 16))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    built = make_pack(scorer, Pictures(), folder, source={})
    assert built.grid == (3, 2)
    latents = sae.encode(encoder(Pictures()[:]["image"])).detach()
    example = next(example for row in built.neurons for example in built.examples(row.neuron))
    row = next(row for row in built.neurons if built.examples(row.neuron))
    expected = latents[example.image_id, :, row.neuron].reshape(3, 2) / row.max
    np.testing.assert_allclose(example.patch_map, expected, atol=0.003)
    active = (latents > 0).float().sum(-1).mean(0).reshape(3, 2)
    np.testing.assert_allclose(built.info["scores"]["l0"]["patch_map"], active, atol=0.001)


def test_near_in_meaning_is_only_what_nonsense_is_not(pack):
    """By a judge that knows two pairs of words, and hears noise in everything else."""
    named = [concept for concept in pack.vocabulary if concept in pack.neurons.index.concepts]
    meant = {"pupil of the eye": named[0], "hound": named[1]}
    pack = copy.copy(pack)
    pack._texts = np.eye(len(pack.vocabulary), 64, dtype=np.float32)
    calls = []

    def embed(texts):
        calls.append(len(texts))
        rows = []
        for text in texts:
            noise = np.random.default_rng(list(text.encode())).normal(size=64)
            known = pack._texts[pack.vocabulary.index(meant[text])] * 3 if text in meant else 0
            row = noise / np.linalg.norm(noise) + known
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)

    for text, concept in meant.items():
        found = pack.find(text, embed_texts=embed)
        assert (found.nearest, found.near_by) == ([concept], "meaning")
    nonsense = [pack.find(f"qx{i}vvz", embed_texts=embed).nearest for i in range(200)]
    assert sum(bool(near) for near in nonsense) <= 8, "one in a hundred gets a neighbour"
    assert sorted(calls)[-2:] == [1, 200], "what nonsense scores is found out once"
