import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score

from cbsae_hub.metrics import ground_truth
from cbsae_hub.metrics.ground_truth import GroundTruth, ground_truth_scores, label_matrix

N, NEURONS, LABELS = 90, 8, 5


@pytest.fixture(params=["distinct", "ties", "signed"])
def data(request):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(N, NEURONS))
    if request.param != "signed":
        latents = np.maximum(latents - 0.4, 0)
    if request.param == "ties":
        latents = np.round(latents, 1)
    latents[:, 2], latents[:, 3] = 0, 1
    labels = rng.random((N, LABELS)) < [0.02, 0.1, 0.3, 0.5, 0.9]
    labels[0] = True
    return latents, labels


def check(found, latents, labels):
    for neuron in range(NEURONS):
        for label in range(LABELS):
            truth, scores = labels[:, label], latents[:, neuron]
            assert found.average_precision[neuron, label] == pytest.approx(
                average_precision_score(truth, scores), abs=1e-12
            )
            assert found.auroc[neuron, label] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@pytest.mark.parametrize("block", [3, 4096])
@pytest.mark.parametrize("form", [np.asarray, sparse.csc_matrix])
def test_equals_scikit_learn(data, form, block, monkeypatch):
    monkeypatch.setattr(ground_truth, "NEURON_BLOCK", block)
    latents, labels = data
    if form is sparse.csc_matrix and (latents < 0).any():
        latents[0, :2] = 0  # stored nowhere now, between images that are stored
        with pytest.raises(ValueError, match="densely"):
            ground_truth_scores(form(latents), labels)
    else:
        check(ground_truth_scores(form(latents), labels), latents, labels)


def test_streams_and_shards_equal_the_whole(data):
    latents, labels = data
    latents = np.maximum(latents, 0)
    shards = GroundTruth(NEURONS), GroundTruth(NEURONS)
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:N]
    for index, rows in enumerate(torch.randperm(N, generator=torch.Generator().manual_seed(2)).split(13)):
        batch = torch.from_numpy(latents)[rows]
        given = batch.to_sparse() if index % 3 else batch
        shards[index % 2].update(given, torch.from_numpy(labels)[rows], ids[rows])
    shards[0].merge_state(shards[1])
    check(shards[0].compute(), latents.astype(np.float32), labels)


def test_lift_is_0_by_chance_and_1_if_perfect():
    rng = np.random.default_rng(0)
    labels = np.zeros((20_000, 2), dtype=bool)
    labels[:200, 0], labels[:10_000, 1] = True, True
    found = ground_truth_scores(np.c_[labels, rng.random(len(labels))].astype(float), labels)
    assert found.prevalence.tolist() == [0.01, 0.5]
    assert found.lift()[0, 0] == found.lift()[1, 1] == 1
    assert np.abs(found.lift()[2]).max() < 0.02
    assert found.auroc[2] == pytest.approx(0.5, abs=0.05)


def test_labels_that_no_image_or_every_image_has_are_undefined():
    labels = np.array([[True, False, True], [False, False, True]])
    found = ground_truth_scores(sparse.csc_matrix([[1.0], [0.0]]), labels)
    assert found.average_precision[0, 0] == found.auroc[0, 0] == 1
    assert np.isnan(found.average_precision[0, 1]) and np.isnan(found.auroc[0, 1:]).all()
    assert found.average_precision[0, 2] == 1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 images and labels of 3"):
        ground_truth_scores(sparse.csc_matrix((2, 1)), np.zeros((3, 1), bool))
    with pytest.raises(ValueError, match="NaN"):
        ground_truth_scores(np.array([[np.nan]]), np.zeros((1, 1), bool))
    with pytest.raises(ValueError, match="no images"):
        GroundTruth(1).compute()
    partly = GroundTruth(1)  # a signed neuron that is given for one of two images
    latents = torch.sparse_coo_tensor([[0], [0]], [-1.0], (2, 1))
    partly.update(latents, torch.zeros(2, 1, dtype=torch.bool), torch.arange(2))
    with pytest.raises(ValueError, match="negative"):
        partly.compute()


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_signed_neurons_in_a_stream_are_those_of_the_whole(layout):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(30, 4, generator=generator)
    latents[:, :2] = latents[:, :2].relu()  # two that are silent on half of the images
    latents[3, 2] = 0
    labels = torch.rand(30, 3, generator=generator) < 0.3
    metric = GroundTruth(4)
    for rows in torch.arange(30).split(7):
        part = latents[rows]
        if layout == "sparse":
            stored = (part > 0) | (torch.arange(4) >= 2)
            part = torch.sparse_coo_tensor(stored.nonzero().T, part[stored], part.shape)
        metric.update(part, labels[rows], rows)
    found, expected = metric.compute(), ground_truth_scores(latents.numpy(), labels.numpy())
    np.testing.assert_allclose(found.average_precision, expected.average_precision)
    np.testing.assert_allclose(found.auroc, expected.auroc)


def test_label_matrix():
    matrix, names = label_matrix([{"b"}, set(), {"a", "b"}])
    assert names == ["a", "b"]
    assert matrix.tolist() == [[False, True], [False, False], [True, True]]
