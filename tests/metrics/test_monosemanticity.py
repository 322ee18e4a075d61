"""Against the definition's double loop, against what must hold, and in shards."""

import math

import pytest
import torch
import torch.nn.functional as F

from cbsae_hub.metrics.monosemanticity import MonosemanticityScore, monosemanticity_score

N, NEURONS, D = 40, 9, 5


def by_pairs(latents, embeddings):
    """Pach et al., eq. 5 to 9, as printed."""
    scores = []
    for a in latents.double().T:
        a = (a - a.min()) / (a.max() - a.min())
        weight = total = 0.0
        for i in range(len(a)):
            for m in range(i + 1, len(a)):
                pair = float(a[i] * a[m])
                total += pair * float(F.cosine_similarity(embeddings[i].double(), embeddings[m].double(), dim=0))
                weight += pair
        scores.append(total / weight if weight else math.nan)
    return torch.tensor(scores, dtype=torch.float64)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(N, D, generator=generator) + 0.5  # not unit
    latents = torch.relu(torch.randn(N, NEURONS, generator=generator))
    latents[:, 0] = 0  # never active
    latents[:, 1] = 3.5  # constant
    latents[:, 2] = 0
    latents[7, 2] = 1.0  # one image
    latents[:, 3] = 0
    latents[[4, 11], 3] = torch.tensor([0.3, 2.0])  # two images: their cosine
    latents[:, 4] += 1.0  # dense: the minimum is not 0
    latents[:, 5] = torch.randn(N, generator=generator)  # signed
    latents[:, 6] = 1e-5 * latents[:, 6]
    latents[3, 6] = 1.0  # one image outweighs the rest
    return latents, embeddings


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_equals_the_double_loop(data, form):
    latents, embeddings = data
    given = latents if form == "dense" else latents.to_sparse()
    scores, expected = monosemanticity_score(given, embeddings), by_pairs(latents, embeddings)
    torch.testing.assert_close(scores, expected, atol=1e-9, rtol=1e-9, equal_nan=True)
    assert scores.isnan().tolist() == [True, True, True] + [False] * 6
    assert scores[3].item() == pytest.approx(F.cosine_similarity(embeddings[4], embeddings[11], dim=0).item(), abs=1e-6)


def test_scale_and_shift_do_not_matter(data):
    latents, embeddings = data
    expected = monosemanticity_score(latents, embeddings)
    moved = monosemanticity_score(latents.double() * torch.rand(NEURONS).double().add(0.1) + 2.0, 3 * embeddings)
    torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("constant", [2.3, -2.3, 1e-3, 700.1])
@pytest.mark.parametrize("step", [1.0, -0.01])
def test_a_neuron_that_is_constant_but_on_one_image_has_no_pairs_or_all_others(constant, step):
    """Up: one image above the minimum, so no pair. Down: all others are, with the same weight."""
    generator = torch.Generator().manual_seed(1)
    images = 400
    embeddings = torch.randn(images, D, generator=generator) + 0.5
    latents = torch.full((images, 1), constant, dtype=torch.float64)
    latents[17] += step * abs(constant)
    score = monosemanticity_score(latents, embeddings).item()
    if step > 0:
        assert math.isnan(score)
    else:
        cosines = F.normalize(embeddings.double(), dim=1) @ F.normalize(embeddings.double(), dim=1).T
        others = torch.arange(images) != 17
        rest = cosines[others][:, others]
        n = images - 1
        assert score == pytest.approx(float((rest.sum() - n) / (n * (n - 1))), abs=1e-6)
    batches = MonosemanticityScore(1, D)
    for rows in torch.arange(images).split(64):
        batches.update(latents[rows], embeddings[rows])
    assert batches.compute().item() == pytest.approx(score, abs=1e-6, nan_ok=True)


def test_two_images_that_stand_out_of_a_constant_are_their_cosine():
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(400, D, generator=generator)
    latents = torch.full((400, 1), 2.3)
    latents[[3, 200]] += torch.tensor([[0.01], [1.0]])
    expected = F.cosine_similarity(embeddings[3], embeddings[200], dim=0).item()
    assert monosemanticity_score(latents, embeddings).item() == pytest.approx(expected, abs=1e-3)


def test_shards_in_any_order_sparse_and_dense_give_the_same(data):
    latents, embeddings = data
    expected = monosemanticity_score(latents, embeddings)
    for seed in range(3):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        shards = [MonosemanticityScore(NEURONS, D) for _ in range(3)]
        for index, rows in enumerate(order.split(6)):
            given = latents[rows].to_sparse() if index % 2 else latents[rows]
            shards[index % 3].update(given, embeddings[rows])
        whole = MonosemanticityScore(NEURONS, D)
        for shard in shards:
            whole.merge_state(shard)
        torch.testing.assert_close(whole.compute(), expected, atol=1e-9, rtol=1e-9, equal_nan=True)


def test_population_is_the_score_of_a_neuron_that_tells_nothing_apart(data):
    _, embeddings = data
    metric = MonosemanticityScore(1, D)
    metric.update(torch.ones(N, 1), embeddings)
    almost_flat = torch.ones(N, 1, dtype=torch.float64)
    almost_flat[0] = 0  # so that it is not constant, and the minimum is 0
    cosines = F.normalize(embeddings.double(), dim=1) @ F.normalize(embeddings.double(), dim=1).T
    assert metric.population() == pytest.approx(float((cosines.sum() - N) / (N * N - N)), abs=1e-12)
    rest = cosines[1:, 1:]
    assert monosemanticity_score(almost_flat, embeddings).item() == pytest.approx(
        float((rest.sum() - (N - 1)) / ((N - 1) * (N - 2))), abs=1e-12
    )


def test_one_image_has_no_pairs():
    assert monosemanticity_score(torch.ones(1, 3), torch.ones(1, 2)).isnan().all()
    metric = MonosemanticityScore(3, 2)
    metric.update(torch.ones(1, 3), torch.ones(1, 2))
    assert math.isnan(metric.population())


def test_bad_input_is_refused(data):
    latents, embeddings = data
    with pytest.raises(ValueError, match="embeddings of 39"):
        monosemanticity_score(latents, embeddings[1:])
    for bad in (math.nan, math.inf):
        broken = latents.clone()
        broken[3, 2] = bad
        with pytest.raises(ValueError, match="latents are NaN or infinite"):
            monosemanticity_score(broken, embeddings)
        with pytest.raises(ValueError, match="embeddings are NaN or infinite"):
            monosemanticity_score(latents, embeddings * bad)
    with pytest.raises(ValueError, match="zero"):
        monosemanticity_score(latents, embeddings * (torch.arange(N) != 5)[:, None])
