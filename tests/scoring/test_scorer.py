"""The pass against all latents at once; in two processes, interrupted and resumed it is the same."""

import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score
from small_hub import CONCEPTS, Pictures, make_bottleneck, make_hub

from cbsae_hub import NeuronTable
from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.metrics import monosemanticity_score, overlaps, soft_wpmi
from cbsae_hub.scoring import NeuronScorer, Scores, Truth, scorer
from cbsae_hub.scoring.probe import Probe
from cbsae_hub.scoring.scorer import ImageEmbedder, image_model

FAMILIES = {"colour": "things.name", "side": "side"}
SETS = {"all": CONCEPTS, "sides": ConceptSet(["left", "right"], "sides")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_hub(tmp_path_factory.mktemp("hub"))


def embed(pictures):
    """A judge of similarity that is none of the models: mean colours."""
    return torch.stack([torch.from_numpy(np.asarray(p, np.float32).mean((0, 1))) for p in pictures])


def head_of(encoder):
    weights = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    return ZeroShotHead(sorted({"red", "green", "blue", "white"}), weights, 10.0)


def make(world, **settings):
    sae, encoder, judge, _ = world
    tree = ConceptTree.from_edges([("colour", "bright"), ("bright", "white"), ("bright", "red"),
                                   ("colour", "green"), ("colour", "blue")])  # fmt: skip
    settings = {"truth": Truth.read(Pictures(96), FAMILIES), "tree": tree, "similarity": embed, "top_k": 10} | settings
    return NeuronScorer(sae, encoder, judge, SETS, zero_shot=head_of(encoder), **settings)


@pytest.fixture(scope="module")
def scores(world):
    made = make(world)
    made.run(Pictures(96), batch_size=10)
    return made.results()


@pytest.fixture(scope="module")
def latents(world):
    """All latents at once: what the scorer never holds. ``[images, tokens, neurons]``."""
    sae, encoder, *_ = world
    return sae.encode(encoder(Pictures(96)[:]["image"])).detach()


def test_names_and_coverage_of_each_concept_set(world, scores, latents):
    judge = world[2]
    images, pooled = judge.embed_images(Pictures(96)[:]["image"]), latents.mean(1)
    alive = (pooled > 0).any(0).numpy()
    for name, concepts in SETS.items():
        expected = soft_wpmi(pooled, images @ judge.embed_texts(list(concepts)).T, top_k=10, count_silent=False)
        named = {concepts[i] for i in expected.argmax(1)[torch.from_numpy(alive)].tolist()}
        told = scores.summary["coverage"][name]
        assert told["named"] == len(named) and told["concepts"] == len(concepts)
        assert told["share"] == pytest.approx(len(named) / len(concepts))
        assert told["by_threshold"]["share"][0] == pytest.approx(told["share"])
        if name == "all":
            assert scores.neurons["name"].notna().tolist() == alive.tolist()
            found = scores.neurons.loc[alive, "score"]
            np.testing.assert_allclose(found, expected.max(1).values[torch.from_numpy(alive)], atol=1e-5)
            unit = scores.neurons.loc[alive, "interpretability"]
            np.testing.assert_allclose(unit, (found - found.min()) / (found.max() - found.min()), atol=1e-9)


def test_monosemanticity_by_the_judge_that_was_asked_for(scores, latents):
    expected = monosemanticity_score(latents.mean(1), embed(Pictures(96)[:]["image"])).numpy()
    np.testing.assert_allclose(scores.neurons["monosemanticity"], expected, atol=1e-7)
    told = scores.summary["monosemanticity"]
    assert told["undefined"] == np.isnan(expected).sum() >= 1
    assert told["mean"] == pytest.approx(np.nanmean(expected))
    groups = [np.nanmean(expected[:8]), np.nanmean(expected[8:])]
    assert [group["mean"] for group in told["by_group"]] == pytest.approx(groups)


def test_judges_are_named_with_their_revisions(world):
    _, encoder, judge, _ = world
    mine = {"id": judge.repo_id, "revision": judge.revision}
    for similarity, expected in (
        (ImageEmbedder(encoder), {"id": encoder.repo_id, "revision": encoder.revision}),
        (ImageEmbedder(judge), mine),
        (None, mine),
        (embed, {"id": None, "revision": None}),
    ):
        made = make(world, similarity=similarity)
        made.run(Pictures(96), batch_size=96)
        told = made.results().summary
        assert told["judge"] == mine and told["monosemanticity"]["judge"] == expected


def test_overlaps(scores, latents):
    values, ids = latents.mean(1).T.sort(dim=1, descending=True, stable=True)
    complete = values[:, 15] > 0
    expected = overlaps(ids[:, :16], complete)
    np.testing.assert_allclose(scores.neurons["nearest_overlap"], expected.nearest)
    assert scores.summary["uniqueness"]["pairs"] == int(complete.sum() * (complete.sum() - 1) / 2)


def test_truth(scores, latents):
    pictures, pooled = Pictures(96), latents.mean(1).numpy()
    labels = {("colour", c): np.array(pictures.colours) == c for c in set(pictures.colours)}
    labels |= {("side", s): np.array(pictures.sides) == s for s in ("left", "right")}
    for row in scores.neurons[scores.neurons["name"].notna()].itertuples():
        precisions = {key: average_precision_score(truth, pooled[:, row.neuron]) for key, truth in labels.items()}
        lifts = {key: (precisions[key] - truth.mean()) / (1 - truth.mean()) for key, truth in labels.items()}
        key = (row.truth_family, row.truth)
        assert lifts[key] == pytest.approx(max(lifts.values()), abs=1e-5)
        assert row.truth_ap == pytest.approx(precisions[key], abs=1e-5)
        assert row.truth_auroc == pytest.approx(roc_auc_score(labels[key], pooled[:, row.neuron]), abs=1e-5)
        assert row.truth_agrees == (row.name.lower() == row.truth.lower())
        assert row.ap_side == pytest.approx(max(v for (f, _), v in precisions.items() if f == "side"), abs=1e-5)
    for row in scores.labels.itertuples():
        precisions = [average_precision_score(labels[row.family, row.label], z) for z in pooled.T]
        assert row.ap == pytest.approx(max(precisions), abs=1e-5)
        assert row.prevalence == pytest.approx(labels[row.family, row.label].mean())
    table = pd.DataFrame(scores.summary["truth"]["detects_by_claim"])
    assert table.to_numpy().sum() == scores.neurons["name"].notna().sum()


def test_how_general_neurons_are(scores, latents):
    pooled, colours = latents.mean(1).numpy(), np.array(Pictures(96).colours)
    depth = {frozenset(["red", "white"]): 1}  # of what two colours share; 0 for the others
    for row in scores.neurons.itertuples():
        fires = pooled[:, row.neuron] > 0
        covered = {colour for colour in set(colours) if fires[colours == colour].mean() >= 0.5}
        assert row.covered_concepts == len(covered)
        expected = None if len(covered) != 2 else "bright" if covered == {"red", "white"} else "colour"
        assert row.common_kind == expected
        top = [colours[i] for i in np.argsort(-pooled[:, row.neuron], kind="stable")[:16] if fires[i]]
        own = {"white": 2, "red": 2, "green": 1, "blue": 1}
        pairs = [own[a] if a == b else depth.get(frozenset([a, b]), 0) for a, b in combinations(top, 2)]
        assert row.ancestor_depth == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    told = scores.summary["hierarchy"]
    assert told["neurons_of_several_concepts"] == scores.neurons["common_kind"].notna().sum()
    assert told["ancestor_depth"]["mean"] == pytest.approx(np.nanmean(scores.neurons["ancestor_depth"]))


def test_reconstruction_and_what_it_costs_downstream(world, scores, latents):
    sae, encoder, *_ = world
    images = Pictures(96)[:]["image"]
    x = encoder(images)
    rebuilt = sae.decode(latents).detach()
    variance = (x.flatten(0, 1) - x.flatten(0, 1).mean(0)).square().sum()
    told = scores.summary["reconstruction"]
    assert told["explained_variance"] == pytest.approx(float(1 - (x - rebuilt).square().sum() / variance), abs=1e-5)
    active = (latents > 0).sum(-1)
    assert told["l0"] == pytest.approx(active.float().mean().item())
    assert scores.summary["l0"]["histogram"]["counts"] == torch.bincount(active.flatten()).tolist()
    np.testing.assert_allclose(scores.summary["l0"]["patch_map"], active.float().mean(0).reshape(2, 2), atol=1e-3)

    colours = Pictures(96).colours
    head, truth = head_of(encoder), torch.tensor([sorted(set(colours)).index(colour) for colour in colours])
    replaced = {"original": x, "reconstructed": rebuilt, "zeroed": torch.zeros_like(x)}
    for name, patches in replaced.items():
        with encoder.site.edit(lambda v, p=patches: torch.cat([v[:, :1], p], 1), allow_identity=True):
            right = head(encoder.embed(images)).argmax(1) == truth
        assert scores.summary["downstream"][f"accuracy_{name}"] == pytest.approx(right.float().mean().item()), name


def test_batches_shares_and_order_do_not_matter(world, scores):
    made = make(world)
    pictures = Pictures(96)
    for ids in torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).split(7):
        made.update(ids, [pictures[int(i)]["image"] for i in ids])
    again = made.results()
    pd.testing.assert_frame_equal(again.neurons, scores.neurons, atol=1e-5, rtol=1e-5)
    assert again.summary["coverage"] == scores.summary["coverage"]


def test_an_interrupted_run_goes_on(world, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer, "CHECKPOINT_EVERY", 2)
    whole, part = make(world), make(world)
    whole.run(Pictures(96), 10, checkpoint=tmp_path / "whole", settings={"model": "a"})
    update, seen = part.update, []

    def killed(ids, pictures):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(ids)
        update(ids, pictures)

    part.update = killed
    with pytest.raises(KeyboardInterrupt):
        part.run(Pictures(96), 10, checkpoint=tmp_path / "part", settings={"model": "a"})
    resumed = make(world)
    resumed.run(Pictures(96), 10, checkpoint=tmp_path / "part", settings={"model": "a"})
    assert len(seen) == 3
    saved, expected = (load_file(tmp_path / name / "process-0.safetensors") for name in ("part", "whole"))
    assert saved.keys() == expected.keys()
    for key in expected:
        assert torch.equal(saved[key], expected[key]), key
    pd.testing.assert_frame_equal(resumed.results().neurons, scores.neurons)
    with pytest.raises(ValueError, match="another run.*delete it"):
        make(world).run(Pictures(96), 10, checkpoint=tmp_path / "part", settings={"model": "b"})


def test_results_on_disk(scores, tmp_path):
    scores.save(tmp_path, seed=3)
    saved, own = NeuronTable.read(tmp_path).frame, NeuronTable(scores.neurons).frame
    pd.testing.assert_frame_equal(saved, own, check_dtype=False)
    told = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert told["seed"] == 3 and told["schema_version"] == 1
    assert told["reconstruction"] == pytest.approx(scores.summary["reconstruction"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "neurons.parquet", "labels.parquet", "examples.parquet", "vocabulary.safetensors", "scores.json"
    }  # fmt: skip
    again = Scores.load(tmp_path)
    pd.testing.assert_frame_equal(again.examples, scores.examples)
    np.testing.assert_array_equal(again.texts, scores.texts)
    assert again.summary["concepts"]["names"] == list(CONCEPTS)


def test_one_image_of_which_nothing_is_known(world, tmp_path):
    sae, encoder, judge, _ = world
    made = NeuronScorer(sae, encoder, judge, SETS)
    made.run(Pictures(1))
    scores = made.results()
    told = scores.summary
    assert scores.labels is None and "truth" not in told and "downstream" not in told
    assert told["monosemanticity"]["undefined"] == 32 and math.isnan(told["monosemanticity"]["mean"])
    assert scores.neurons["truth"].isna().all() and scores.neurons["truth_ap"].isna().all()
    assert math.isnan(told["uniqueness"]["mean_jaccard"])
    scores.save(tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["monosemanticity"]["mean"] is None


def test_bad_requests_are_refused(world):
    with pytest.raises(ValueError, match="no probe images"):
        make(world).run(Pictures(0))
    with pytest.raises(ValueError, match="no column 'nonsense'"):
        Truth.read(Pictures(96), {"x": "nonsense"})
    sae, encoder, judge, _ = world
    with pytest.raises(ValueError, match="no concept set"):
        NeuronScorer(sae, encoder, judge, {})
    with pytest.raises(ValueError, match="compared with images by a judge"):
        NeuronScorer(sae, encoder, None, SETS)
    with pytest.raises(ValueError, match="zero_shot and tree need truth"):
        make(world, truth=None)


def test_an_encoder_without_embedding_is_refused_before_anything_runs(world, tmp_path):
    sae, encoder, judge, _ = world
    bare = VisionEncoder(encoder.model.vision_model, encoder.processor, 1)
    settings = {"truth": Truth.read(Pictures(96), FAMILIES)}
    NeuronScorer(sae, bare, judge, SETS, **settings)
    with pytest.raises(ValueError, match="has no image embedding: its CLIPVisionModel has no visual_projection"):
        NeuronScorer(sae, bare, judge, SETS, zero_shot=head_of(encoder), **settings)
    bare.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} has no image embedding"):
        image_model(tmp_path)


def test_activations_that_are_not_finite_are_no_silence(world):
    """A gate would let none of them through, and take the image for one on which nothing fires."""
    made = make(world)
    bias = made.encoder.site.block.mlp.fc2.bias
    kept = bias.clone()
    bias.fill_(torch.nan)
    try:
        with pytest.raises(ValueError, match="activations of image 0 are NaN"):
            made.run(Pictures(96))
    finally:
        bias.copy_(kept)


def test_a_concept_bottleneck_sae_is_scored_whole(world):
    """Names and MonoSemanticity of signed concept activations; activity and L0 of what the decoder reads."""
    sae, encoder, judge, folder = world
    cb = make_bottleneck(sae, encoder, folder.parent)
    made = make((cb, encoder, judge, folder))
    made.run(Pictures(96), batch_size=10)
    found = made.results()
    x = encoder(Pictures(96)[:]["image"])
    z = cb.encode(x).detach()
    c = z[..., cb.d_sae :]
    pooled, read = z.mean(1), cb.select_concepts(c)
    assert (pooled[:, cb.d_sae :] < 0).any()
    frame = found.neurons
    assert frame["kind"].tolist() == ["sae"] * 16 + ["cb"] * 2
    similarities = judge.embed_images(Pictures(96)[:]["image"]) @ judge.embed_texts(list(CONCEPTS)).T
    names = soft_wpmi(pooled, similarities, top_k=10, count_silent=False)
    similar = monosemanticity_score(pooled, embed(Pictures(96)[:]["image"]))
    truth = Truth.read(Pictures(96), FAMILIES)
    for neuron, (designated, concept) in enumerate(zip(["red", "right"], c.unbind(-1)), cb.d_sae):
        row = frame.loc[neuron]
        best = names[neuron].topk(5)
        assert list(row["names"]) == [CONCEPTS[i] for i in best.indices.tolist()]
        np.testing.assert_allclose(row["scores"], best.values, atol=1e-4)
        assert row["monosemanticity"] == pytest.approx(similar[neuron].item(), abs=1e-6)
        assert row["designated"] == designated
        own = names[neuron, list(CONCEPTS).index(designated)].item()
        assert row["designated_score"] == pytest.approx(own, abs=1e-4)
        assert row["designated_first"] == (row["names"][0] == designated)
        assert row["designated_among_five"] == (designated in row["names"])
        labels = truth.matrix[:, [label for _, label in truth.labels].index(designated)]
        assert row["designated_ap"] == pytest.approx(average_precision_score(labels, concept.mean(1)))
        assert row["token_density"] == pytest.approx((read[..., neuron - cb.d_sae] > 0).float().mean().item())
    assert frame["designated"].isna().sum() == frame["designated_score"].isna().sum() == 16
    l0 = (z[..., : cb.d_sae] > 0).sum(-1) + (read != 0).sum(-1)
    assert found.summary["reconstruction"]["l0"] == pytest.approx(l0.float().mean().item())
    assert found.summary["model"]["concepts"] == 2


def test_models_are_scored_on_what_was_seen_before(world, tmp_path):
    sae, encoder, judge, folder = world
    looks = {"judges": {"mine": judge}, "similarity": encoder, "source": {"id": "halves"}}
    probe = Probe.make(tmp_path, encoder, Pictures(96), **looks)
    direct, stored = make(world, similarity=encoder.embed), make(world, similarity=encoder.embed)
    direct.run(Pictures(96), batch_size=10)
    for ids, seen in Probe.make(tmp_path, encoder, Pictures(96), **looks).batches("mine", 10):
        stored.add(ids, seen)
    assert len(probe) == 96
    found, expected = stored.results(), direct.results()
    pd.testing.assert_frame_equal(found.neurons, expected.neurons, rtol=1e-4, atol=1e-5)
    for name, value in expected.summary["downstream"].items():
        assert found.summary["downstream"][name] == pytest.approx(value, rel=1e-4, nan_ok=True)
    with pytest.raises(OSError, match="other settings"):
        Probe.make(tmp_path, encoder, Pictures(48), **looks)


@pytest.fixture(scope="module")
def store(world, tmp_path_factory):
    _, encoder, _, _ = world
    folder = tmp_path_factory.mktemp("activations")
    return extract_activations(encoder, Pictures(96), folder, source={"id": "x"}, dtype="float32")


def test_stored_activations_and_embeddings_score_as_the_models_do(world, store):
    sae, encoder, judge, _ = world
    nothing = Truth.read(Pictures(96), {})
    direct, stored = (NeuronScorer(sae, encoder, judge, SETS, truth=nothing, top_k=10) for _ in range(2))
    direct.run(Pictures(96), batch_size=10)
    stored.run_stored(store, judge.embed_images(Pictures(96)[:]["image"]), batch_size=7)
    result, expected = stored.results(), direct.results()
    pd.testing.assert_frame_equal(result.neurons, expected.neurons, rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(result.examples, expected.examples, rtol=1e-4, atol=1e-5)


def test_embeddings_of_a_second_judge_may_be_stored_too(world, store):
    sae, encoder, judge, _ = world
    direct, stored = (NeuronScorer(sae, encoder, judge, SETS, similarity=encoder.embed, top_k=10) for _ in range(2))
    direct.run(Pictures(96), batch_size=10)
    pictures = Pictures(96)[:]["image"]
    stored.run_stored(store, judge.embed_images(pictures), batch_size=7, similarity=encoder.embed(pictures))
    result, expected = stored.results(), direct.results()
    pd.testing.assert_frame_equal(result.neurons, expected.neurons, rtol=1e-4, atol=1e-5)
    found, direct = (one.summary["monosemanticity"]["population"] for one in (result, expected))
    assert found == pytest.approx(direct, rel=1e-4)


def test_what_is_not_stored_is_refused(world, store):
    with pytest.raises(ValueError, match="need the images"):
        make(world).run_stored(store)
    sae, encoder, judge, _ = world
    embeddings = torch.zeros(96, 8)
    with pytest.raises(ValueError, match="a second judge without its embeddings"):
        NeuronScorer(sae, encoder, judge, SETS, similarity=encoder.embed).run_stored(store, embeddings)
    with pytest.raises(ValueError, match="there is none"):
        NeuronScorer(sae, encoder, judge, SETS).run_stored(store, embeddings, similarity=embeddings)
    other = VisionEncoder(encoder.model, encoder.processor, encoder.layer, "cls")
    with pytest.raises(ValueError, match="other tokens"):
        NeuronScorer(sae, other, judge, SETS).run_stored(store, torch.zeros(96, 8))


def test_without_a_judge_neurons_have_no_names_and_all_else_is_measured(world, store, scores, latents):
    sae, encoder, _, _ = world
    made = NeuronScorer(sae, encoder, None, {}, truth=Truth.read(Pictures(96), FAMILIES))
    made.run_stored(store, batch_size=10)
    result = made.results()
    frame = result.neurons
    assert frame["name"].isna().all() and frame["score"].isna().all() and not frame["names"].map(len).any()
    same = ["neuron", "density", "token_density", "max", "p99", "status", "top_images", "truth", "truth_ap"]
    pd.testing.assert_frame_equal(frame[same], scores.neurons[same], rtol=1e-4)
    vectors = F.normalize(encoder(Pictures(96)[:]["image"]).mean(1), dim=-1)
    expected = monosemanticity_score(latents.mean(1), vectors)
    np.testing.assert_allclose(frame["monosemanticity"], expected, atol=1e-4)
    assert result.summary["judge"]["id"] is None and result.summary["concepts"]["names"] == []
    assert math.isnan(result.summary["interpretability"]["mean_score"]) and result.summary["coverage"] == {}
    assert result.summary["monosemanticity"]["judge"]["id"] == encoder.repo_id
    assert made.latents().shape == (96, sae.d_latent)
