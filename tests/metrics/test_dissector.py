"""Against CLIP-Dissect's published formulas written out, against closed constants, and streams against the whole."""

import math

import pytest
import torch
import torch.nn.functional as F

from cbsae_hub.metrics import cosine, cosine_cubed, rank_reorder, soft_wpmi
from cbsae_hub.metrics import dissector as dissect
from cbsae_hub.metrics.dissector import Dissector
from cbsae_hub.metrics.soft_wpmi import rank_weights

N, NEURONS, CONCEPTS, D = 150, 12, 9, 6
PLAIN = {"soft_wpmi": soft_wpmi, "cosine": cosine, "cosine_cubed": cosine_cubed, "rank_reorder": rank_reorder}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(N, D, generator=generator).abs(), dim=1)
    texts = F.normalize(torch.randn(CONCEPTS, D, generator=generator).abs(), dim=1)
    latents = torch.relu(torch.randn(N, NEURONS, generator=generator) + 0.3)
    latents[:, 0] = 0  # a dead neuron
    return latents, images, texts


def published_soft_wpmi(latents, similarities, top_k):
    """The formula as the paper prints it, neuron by neuron, with logarithms that cancel."""
    p_image_concept = torch.softmax(10 * similarities.double(), dim=1)
    rows = []
    for neuron in latents.T:
        best = sorted(range(len(neuron)), key=lambda i: (-neuron[i].item(), i))[:top_k]
        total = torch.zeros(similarities.shape[1], dtype=torch.float64)
        for rank, image in enumerate(best):
            p = 0.998 - rank / top_k * (0.998 - 0.97)
            total += torch.log(1 + p * (p_image_concept[image] - 1) + 1e-7)
        rows.append(total)
    return torch.stack(rows)


def test_soft_wpmi_is_the_published_formula(data):
    latents, images, texts = data
    latents, similarities = latents[:, 1:], images @ texts.T
    evidence = published_soft_wpmi(latents, similarities, 100)
    prior = evidence.logsumexp(0) - math.log(len(evidence))
    exact = soft_wpmi(latents, similarities.double())
    torch.testing.assert_close(exact, evidence - prior, atol=1e-9, rtol=1e-9)
    half = soft_wpmi(latents, similarities.double(), lam=0.5)
    torch.testing.assert_close(half, evidence - 0.5 * prior, atol=1e-9, rtol=1e-9)
    subset = soft_wpmi(latents[:, :3], similarities.double(), prior=prior)
    torch.testing.assert_close(subset, exact[:3], atol=1e-9, rtol=1e-9)
    single = soft_wpmi(latents, similarities).double()
    torch.testing.assert_close(single, exact, atol=float(3e-7 * evidence.abs().max()), rtol=0)


def test_constants_of_the_ranks():
    weights, base = rank_weights(100, 100, 0.998, 0.97, 0.0)
    assert weights[0] == pytest.approx(499.0)
    assert sum(weights) == pytest.approx(9810.7373, abs=1e-3)
    _, base = rank_weights(100, 100, 0.998, 0.97, 1e-7)
    assert base == pytest.approx(-432.676489, abs=1e-5)


def test_properties_of_soft_wpmi(data):
    latents, images, texts = data
    similarities = (images @ texts.T).double()
    scores = soft_wpmi(latents, similarities)
    assert (scores[0] == 0).all(), "a dead neuron is named by nothing"
    one = soft_wpmi(latents[:, 3:4], similarities)
    torch.testing.assert_close(one, torch.zeros_like(one), atol=1e-9, rtol=0)
    order = torch.randperm(CONCEPTS, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(soft_wpmi(latents, similarities[:, order]), scores[:, order])
    order = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(soft_wpmi(latents[:, order], similarities), scores[order])


def test_a_neuron_that_follows_a_concept_is_named_so():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CONCEPTS, (N,), generator=generator)
    latents = F.one_hot(labels, CONCEPTS) * (0.5 + torch.rand(N, CONCEPTS, generator=generator))
    similarities = 0.2 + 0.1 * latents + 0.005 * torch.randn(N, CONCEPTS, generator=generator)
    for method, function in PLAIN.items():
        options = {"top_k": 10} if method == "soft_wpmi" else {}
        assert function(latents, similarities, **options).argmax(1).tolist() == list(range(CONCEPTS)), method


def test_cosine_cubed_is_affine_invariant_and_signed(data):
    latents, images, texts = data
    latents, similarities = latents.double(), (images @ texts.T).double()
    scores = cosine_cubed(latents[:, 1:], similarities * 100)
    torch.testing.assert_close(cosine_cubed(3 * latents[:, 1:] + 7, similarities * 500 - 2), scores)
    torch.testing.assert_close(
        cosine_cubed(similarities * 100, similarities * 100).diag(), torch.ones(CONCEPTS).double()
    )
    torch.testing.assert_close(
        cosine_cubed(-similarities * 100, similarities * 100).diag(), -torch.ones(CONCEPTS).double()
    )


def test_rank_reorder_by_hand():
    latents = torch.tensor([[4.0], [3.0], [1.0], [0.0]])
    perfect, reversed_ = [0.9, 0.8, 0.7, 0.6], [0.6, 0.7, 0.8, 0.9]
    scores = rank_reorder(latents, torch.tensor([perfect, reversed_]).T, top_fraction=1.0)[0]
    assert scores[0] == 0
    values = [4.0, 3.0, 1.0, 0.0]
    chance = sum(abs(a - b) ** 3 for a in values for b in values) / 16
    error = sum(abs(a - b) ** 3 for a, b in zip(values, values[::-1])) / 4
    assert scores[1].item() == pytest.approx(-error / chance / 0.75**0.5)
    assert rank_reorder(latents, -torch.ones(4, 1), top_fraction=1.0).item() == -math.inf


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("method", PLAIN)
def test_streams_in_any_order_and_merged_equal_the_whole(data, method, form):
    latents, images, texts = data
    texts = texts.double()
    expected = PLAIN[method](latents, images.double() @ texts.T)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    parts = [Dissector(NEURONS, texts, method), Dissector(NEURONS, texts, method)]
    for index, batch in enumerate(order.split(40)):
        given = latents[batch] if form == "dense" else latents[batch].to_sparse()
        parts[index % 2].update(given, images[batch], batch)
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(parts[0].compute(), expected.double(), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("deviations", [0, 10, 30, 1000])
def test_cubes_of_what_lies_far_from_zero_are_streamed_exactly(deviations, form):
    """A concept neuron is active on every image, and a judge's cosines are nearly alike."""
    generator = torch.Generator().manual_seed(4)
    texts = F.normalize(torch.randn(CONCEPTS, D, generator=generator, dtype=torch.float64), dim=1)
    images = F.normalize(deviations * texts.mean(0) + torch.randn(N, D, generator=generator) * 0.3, dim=1)
    latents = torch.randn(N, NEURONS, generator=generator) + deviations
    latents[:, 3:6] = torch.relu(latents[:, 3:6] - deviations)  # some are silent on half of the images
    latents[:80, 7] = 0  # not seen in the first batches
    parts = [Dissector(NEURONS, texts, "cosine_cubed") for _ in range(2)]
    for index, batch in enumerate(torch.arange(N).split(40)):
        given = latents[batch] if form == "dense" else latents[batch].to_sparse()
        parts[index % 2].update(given, images[batch], batch)
    parts[0].merge_state(parts[1])
    expected = cosine_cubed(latents.double(), images.double() @ texts.T)
    torch.testing.assert_close(parts[0].compute(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", PLAIN)
def test_several_concept_sets_in_one_pass(data, method, monkeypatch):
    latents, images, texts = data
    monkeypatch.setattr(dissect, "CONCEPT_BLOCK", 4)
    sets = {"few": texts[:2].double(), "all": texts.double()}
    dissector = Dissector(NEURONS, sets, method)
    for batch in torch.arange(N).split(64):
        dissector.update(latents[batch], images[batch], batch)
    scores, names = dissector.compute(), dissector.name(count=3)
    for name, concepts in sets.items():
        expected = PLAIN[method](latents, images.double() @ concepts.T)
        torch.testing.assert_close(scores[name], expected.double(), atol=1e-8, rtol=1e-6)
        best, which = expected.topk(min(3, len(concepts)))
        torch.testing.assert_close(names[name].scores, best.double(), atol=1e-8, rtol=1e-6)
        assert torch.equal(names[name].concepts[1:], which[1:])
    torch.testing.assert_close(names["all"].density, (latents > 0).float().mean(0))


def test_float32_products_cannot_overflow():
    """One concept that all images are sure of: a hundred factors of up to 500, which float32 could not hold."""
    similarities = torch.tensor([[1.0, -5.0]]).repeat(120, 1)
    latents = torch.rand(120, 4, generator=torch.Generator().manual_seed(0))
    single, double = (soft_wpmi(latents, similarities.to(t), lam=0.0) for t in (torch.float32, torch.float64))
    assert double[0, 0].item() == pytest.approx(published_soft_wpmi(latents, similarities, 100)[0, 0].item(), rel=1e-6)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-3)


def published_chance(similarities, prior, k, top_k, draws=400):
    """Best scores of neurons with k random images, the ranks' weights being those of top_k."""
    random = torch.rand(N, draws, generator=torch.Generator().manual_seed(9))
    p_image_concept = torch.softmax(10 * similarities.double(), dim=1)
    best = random.T.argsort(dim=1)[:, :k]
    p = 0.998 - torch.arange(k).double() / top_k * (0.998 - 0.97)
    q = p / (1 - p + 1e-7)
    return ((1 + q[:, None] * p_image_concept[best]).log().sum(1) - prior).amax(1)


@pytest.mark.parametrize("count_silent", [True, False])
def test_names_are_compared_with_neurons_that_know_nothing(data, count_silent):
    latents, images, texts = data
    latents = latents.clone()
    latents[5:, 4] = 0  # active on five images at most
    dissector = Dissector(NEURONS, texts.double(), top_k=20, count_silent=count_silent)
    dissector.update(latents, images, torch.arange(N))
    naming = dissector.name(null_draws=400)
    similarities = images.double() @ texts.double().T
    scores = soft_wpmi(latents, similarities, top_k=20, count_silent=count_silent)
    torch.testing.assert_close(naming.scores, scores.topk(5).values)
    few = int((latents[:, 4] > 0).sum())
    evidence = published_soft_wpmi(latents[:, 1:], similarities, 20)
    _, base = rank_weights(20, 20)
    if not count_silent:
        q = torch.tensor(rank_weights(few, 20)[0]).double()
        top = latents[:, 4].argsort(descending=True)[:few]
        probabilities = torch.softmax(10 * similarities, dim=1)
        evidence[3] = base + (1 + q[:, None] * probabilities[top]).log().sum(0)
    prior = evidence.logsumexp(0) - math.log(NEURONS - 1)
    torch.testing.assert_close(scores[1:], evidence - prior)
    for neuron, used in ((1, 20), (4, 20 if count_silent else few)):
        chance = published_chance(similarities, prior - base, used, 20)
        error = 5 * chance.std() / 400**0.5
        assert abs(naming.chance[neuron] - chance.mean()) < error
        share = (chance < scores[neuron].max()).double().mean()
        assert abs(naming.percentile[neuron] - share) < 0.1


def test_silent_images_do_not_name_neurons_unless_they_are_asked():
    """Two neurons of two images each; the silent images of the lowest ids all show the third concept."""
    similarities = torch.full((12, 3), 0.1)
    similarities[:8, 2], similarities[8:10, 0], similarities[10:, 1] = 0.6, 0.5, 0.5
    latents = torch.zeros(12, 2)
    latents[8:10, 0], latents[10:, 1] = 1.0, 1.0
    assert soft_wpmi(latents, similarities, top_k=8, lam=0.0).argmax(1).tolist() == [2, 2]
    assert soft_wpmi(latents, similarities, top_k=8, lam=0.0, count_silent=False).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_input_is_refused(data, bad):
    latents, images, texts = data
    with pytest.raises(ValueError, match="images"):
        soft_wpmi(latents[1:], images @ texts.T)
    broken = latents.clone()
    broken[3, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        Dissector(NEURONS, texts).update(broken, images, torch.arange(N))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Dissector(NEURONS, texts).update(broken.to_sparse(), images, torch.arange(N))
    with pytest.raises(ValueError, match="soft_wpmi, cosine"):
        Dissector(NEURONS, texts, "nonsense")
    with pytest.raises(ValueError, match="without concepts"):
        Dissector(NEURONS, texts[:0])
    with pytest.raises(ValueError, match="no images"):
        Dissector(NEURONS, texts).compute()
    with pytest.raises(ValueError, match="no images"):
        soft_wpmi(latents[:0], (images @ texts.T)[:0])
