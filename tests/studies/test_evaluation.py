"""The layer's raw neurons as the null of an evaluation, and the tables that follow from neuron tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_hub import Pictures, make_hub

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.scoring import Truth
from cbsae_hub.scoring.probe import Probe
from cbsae_hub.studies.evaluation import RAW, Evaluator, quadrants_by_threshold, text_and_image


@pytest.fixture(scope="module")
def evaluator_and_sae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    sae, encoder, judge, _ = make_hub(folder)
    images = Pictures(20)
    source = {"id": "pictures", "split": "train"}
    probe = Probe.make(folder / "probe", encoder, images, source=source, judges={"mine": judge}, similarity=judge)
    concepts = {"colours": ConceptSet(["red", "green"])}
    truth = Truth.read(images, {})
    return Evaluator(probe, encoder, {"mine": judge}, concepts, truth, None, judge.embed_images, top_k=3), sae, encoder


def test_raw_neurons_are_both_directions_of_each_dimension_as_sparse_as_the_sae(evaluator_and_sae):
    evaluator, sae, encoder = evaluator_and_sae
    raw, x = evaluator.raw_neurons(sae), encoder(Pictures(20)["image"])
    offsets = (x - sae.b_dec).detach()
    both = torch.cat([offsets, -offsets], -1)
    count = round(float((sae.encode(x) > 0).float().sum(-1).mean()) * x.shape[0] * x.shape[1])
    smallest = both.flatten().sort(descending=True).values[count - 1]
    torch.testing.assert_close(raw.encode(x), torch.where(both >= smallest, both, 0.0), atol=1e-5, rtol=1e-4)
    assert raw.encoder_id == sae.encoder_id and raw.layer == sae.layer
    scores = evaluator.evaluate(raw, "mine")
    assert len(scores.neurons) == 2 * sae.d_in


def test_quadrants_are_cut_at_the_mean_and_at_what_raw_neurons_reach():
    rng = np.random.default_rng(0)
    frames = {
        name: pd.DataFrame({"interpretability": rng.random(50), "steerability": size * rng.random(50)})
        for name, size in (("SAE", 1.0), (RAW, 0.6))
    }
    table = quadrants_by_threshold(frames).set_index(["model", "threshold"])
    null = frames[RAW]["steerability"].mean()
    for (model, rule), row in table.iterrows():
        frame = frames[model]
        limit = null if rule == "null" else frame["steerability"].mean()
        both = (frame["interpretability"] >= frame["interpretability"].mean()) & (frame["steerability"] >= limit)
        assert row["steerable from"] == pytest.approx(limit)
        assert row["high / high"] == pytest.approx(100 * both.mean())
    assert len(table) == 4
    assert quadrants_by_threshold({"SAE": frames["SAE"].drop(columns="steerability"), RAW: frames[RAW]}).empty


def test_text_and_image_are_compared_where_both_were_measured():
    frame = pd.DataFrame({"name": list("abcd"), "steer_text_unit": [1.0, 2, 3, 5], "steer_image_unit": [2.0, 1, 4, 3]})
    (row,) = text_and_image({"SAE": frame, "other": frame.drop(columns="steer_image_unit")}).to_dict("records")
    assert row["model"] == "SAE" and row["steered"] == "unit" and row["concepts"] == 4
    assert row["correlation"] == pytest.approx(np.corrcoef([1, 2, 3, 5], [2, 1, 4, 3])[0, 1])
