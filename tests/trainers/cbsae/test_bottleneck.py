"""The objectives against numpy and finite differences, what each may touch, and whole runs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from small_run import BOTTLENECK, CONCEPTS, bottleneck, sparse_combinations, teacher, untrained
from torch.testing import assert_close

from cbsae_hub import CBSAE
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.trainers.cbsae.bottleneck import BottleneckState, cosine_cubed_similarity
from cbsae_hub.trainers.cbsae.trainer import CBSAETrainer, add_concepts
from cbsae_hub.trainers.config import CBSAETrainConfig
from cbsae_hub.trainers.loop import Interrupted

pytestmark = pytest.mark.slow

CONFIG = CBSAETrainConfig(steps=1, batch_size=50, lr=0.1)


def similarity_by_hand(u, y):
    u, y = (x - x.mean(0) for x in (np.asarray(u, np.float64), np.asarray(y, np.float64)))
    u, y = u**3, y**3
    return (u * y).sum(0) / np.sqrt((u**2).sum(0) * (y**2).sum(0))


@pytest.fixture
def u_and_y():
    return torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def state():
    return BottleneckState(untrained(), CONFIG, *teacher())


@pytest.fixture
def batch():
    train, _, _ = sparse_combinations()
    return next(train.labelled_batches(200, 0, 0))


def test_similarity(u_and_y):
    u, y = u_and_y
    expected = similarity_by_hand(u, y)
    np.testing.assert_allclose(cosine_cubed_similarity(u, y), expected, rtol=1e-5)
    np.testing.assert_allclose(cosine_cubed_similarity(1e-4 * u + 7e-3, 300 * y - 5), expected, rtol=1e-2)
    assert_close(cosine_cubed_similarity(u, 2 * u + 1), torch.ones(5), rtol=1e-5, atol=1e-6)
    assert_close(cosine_cubed_similarity(u, -u), -torch.ones(5), rtol=1e-5, atol=1e-6)
    assert cosine_cubed_similarity(torch.ones(40, 5), y).tolist() == [0] * 5


def test_gradient_of_the_similarity(u_and_y):
    """The closed form: du/dc of x^3, the cosine's gradient, and the centring."""
    c, y = u_and_y[0].clone().requires_grad_(), u_and_y[1]
    cosine_cubed_similarity(c, y).sum().backward()
    x = (c - c.mean(0)).detach()
    u, w = x**3, (y - y.mean(0)) ** 3
    s = similarity_by_hand(c.detach(), y)
    ds_du = (w / w.norm(dim=0) - torch.tensor(s) * u / u.norm(dim=0)) / u.norm(dim=0)
    dx = 3 * x**2 * ds_du
    assert_close(c.grad, dx - dx.mean(0), rtol=1e-4, atol=1e-6)
    constant = torch.ones(40, 5, requires_grad=True)
    cosine_cubed_similarity(constant, y).sum().backward()
    assert constant.grad.isfinite().all()


def test_objectives_by_hand(state, batch):
    x, images = batch
    cb, strengths = state.cb, teacher()[0]
    c = (x - cb.sae.b_dec) @ cb.W_enc_cb
    kept = torch.stack([row * (row >= row.topk(3).values[-1]) for row in c]).relu()
    whole = cb.sae.decode(cb.sae.encode(x)) + kept @ cb.W_dec_cb
    y = strengths[images][:, : len(CONCEPTS)]
    read = (whole - cb.sae.b_dec) @ cb.W_enc_cb
    inputs = state.prepare(x, images)
    assert_close(state.reconstruction(*inputs), (x - whole).square().sum(1).mean())
    for found, values in ((state.interpretability(*inputs), c), (state.steerability(*inputs), read)):
        assert found.item() == pytest.approx(-similarity_by_hand(values.detach(), y).mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("objective", "settings", "moves"),
    [
        ("reconstruction", {}, {"W_enc_cb", "W_dec_cb"}),
        ("reconstruction", {"reconstruction_moves_encoder": False}, {"W_dec_cb"}),
        ("interpretability", {}, {"W_enc_cb"}),
        ("steerability", {}, {"W_dec_cb"}),
    ],
)
def test_each_objective_touches_only_what_it_may(batch, objective, settings, moves):
    cb = untrained()
    before = {name: tensor.clone() for name, tensor in cb.state_dict().items()}
    config = CBSAETrainConfig(batch_size=200, lr=0.1, objectives=(objective,), **settings)
    state = BottleneckState(cb, config, *teacher())
    losses = state.update(*batch)
    assert list(losses) == [objective]
    assert {name for name, tensor in cb.state_dict().items() if not torch.equal(tensor, before[name])} == moves


def test_steps_follow_each_other_as_separate_adams(batch):
    """All three, in order, against Adam written out."""
    cb = untrained()
    state = BottleneckState(cb, CBSAETrainConfig(batch_size=200, lr=0.1), *teacher())
    weights = {"e": cb.W_enc_cb.detach().clone(), "d": cb.W_dec_cb.detach().clone()}
    moments = {}
    for step in (1, 2):
        state.update(*batch)
        for objective, names in (("reconstruction", "ed"), ("interpretability", "e"), ("steerability", "d")):
            fresh = BottleneckState(untrained(), CONFIG, *teacher())
            with torch.no_grad():
                fresh.encoder.copy_(weights["e"])
                fresh.decoder.copy_(weights["d"])
            leaves = {"e": fresh.encoder, "d": fresh.decoder}
            loss = getattr(fresh, objective)(*fresh.prepare(*batch))
            gradients = torch.autograd.grad(loss, [leaves[name] for name in names])
            for name, gradient in zip(names, gradients):
                m, v = moments.get((objective, name), (0, 0))
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                moments[objective, name] = m, v
                weights[name] = weights[name] - 0.1 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    assert_close(cb.W_enc_cb.detach(), weights["e"], rtol=1e-4, atol=1e-4)
    assert_close(cb.W_dec_cb.detach(), weights["d"], rtol=1e-4, atol=1e-4)


def ridge_by_hand(cb, x, y):
    """The regression with scikit-learn, and patterns as covariances divided by variances."""
    error = (x - cb.sae(x).reconstruction).detach().double().numpy()
    x = x.double().numpy()
    y = y.double().numpy()
    fit = Ridge(alpha=len(x) * 1e-3 * x.var(0).mean()).fit(x, y / y.std(0))
    c = fit.predict(x)
    pattern = np.stack([[np.cov(c[:, k], column)[0, 1] / c[:, k].var(ddof=1) for column in x.T] for k in range(6)])
    left = np.stack([[np.cov(c[:, k], column)[0, 1] / c[:, k].var(ddof=1) for column in error.T] for k in range(6)])
    share = (pattern * left).sum(1) / (pattern**2).sum(1)
    return fit.coef_.T, pattern * np.maximum(share, 0.03)[:, None]


@pytest.mark.parametrize("unit_rows", [False, True])
def test_start_from_a_regression(unit_rows):
    train, heldout, strengths = sparse_combinations()
    cb = untrained()
    state = BottleneckState(cb, CBSAETrainConfig(start="ridge", unit_rows=unit_rows), *teacher())
    state.initialise(train.labelled_batches(500, 0, 0))
    x, images = next(train.labelled_batches(2500, 0, 0))
    encoder, decoder = ridge_by_hand(cb, x, strengths[images][:, : len(CONCEPTS)])
    length = np.linalg.norm(decoder, axis=1) if unit_rows else np.ones(6)
    np.testing.assert_allclose(cb.W_enc_cb.detach(), encoder * length, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(cb.W_dec_cb.detach(), decoder / length[:, None], rtol=1e-3, atol=1e-4)
    c = cb.concept_activations(heldout.rows).detach()
    found = np.corrcoef(c.T, strengths[2500:].T)[: len(CONCEPTS), len(CONCEPTS) :]
    assert found.argmax(1).tolist() == list(range(len(CONCEPTS)))


def test_a_start_as_drawn_reads_nothing(state):
    before = state.encoder.clone()
    state.initialise(iter(lambda: pytest.fail("a batch was read"), None))
    assert torch.equal(state.encoder, before)


def test_unit_rows_are_kept_and_cost_nothing(batch):
    """After each step rows have length 1, and a step from there decodes what it decodes without."""
    cb = untrained()
    state = BottleneckState(cb, CBSAETrainConfig(batch_size=200, lr=0.1, unit_rows=True), *teacher())
    free = untrained()
    BottleneckState(free, CBSAETrainConfig(batch_size=200, lr=0.1), *teacher()).update(*batch)
    state.update(*batch)
    assert_close(cb.W_dec_cb.norm(dim=1), torch.ones(6))
    assert_close(cb.W_enc_cb.T[:, :, None] * cb.W_dec_cb[:, None], free.W_enc_cb.T[:, :, None] * free.W_dec_cb[:, None])
    state.update(*batch)
    assert_close(cb.W_dec_cb.norm(dim=1), torch.ones(6))


def test_training_finds_the_teachers_concepts(tmp_path):
    trainer = bottleneck(tmp_path / "cb")
    before = trainer.evaluate()
    after = trainer.train()
    assert after.interpretability > before.interpretability + 0.2
    assert after.steerability > before.steerability + 0.3
    assert after.explained_variance > before.explained_variance + 0.05
    assert after.explained_variance_retained == pytest.approx(before.explained_variance_retained)
    loaded = CBSAE.from_pretrained(tmp_path / "cb")
    assert loaded.concepts == CONCEPTS and loaded.trained_on["steps"] == BOTTLENECK["steps"]
    for name, tensor in untrained().sae.state_dict().items():
        assert torch.equal(loaded.sae.state_dict()[name], tensor)
    heldout = sparse_combinations()[1].rows
    error = (heldout - loaded(heldout).reconstruction).square().sum()
    variance = (heldout - heldout.mean(0)).square().sum()
    assert float(1 - error / variance) == pytest.approx(after.explained_variance, abs=1e-4)


def test_interpretability_alone_finds_every_concept(tmp_path):
    """The other objectives pull elsewhere; without them each neuron follows its own of the 16 directions."""
    trainer = bottleneck(tmp_path / "cb", objectives=["interpretability"])
    before = trainer.evaluate()
    assert trainer.train().interpretability > 0.8 > 0.1 > before.interpretability
    _, heldout, strengths = sparse_combinations()
    c = trainer.cb.concept_activations(heldout.rows).detach()
    found = np.corrcoef(c.T, strengths[2500:].T)[: len(CONCEPTS), len(CONCEPTS) :]
    assert found.argmax(1).tolist() == list(range(len(CONCEPTS)))


STARTS = [{}, {"start": "ridge", "unit_rows": True, "reconstruction_moves_encoder": False}]


@pytest.mark.parametrize("settings", STARTS, ids=["as in the paper", "from a regression"])
def test_killed_and_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, monkeypatch, settings):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    bottleneck(whole, **settings).train()
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="step 130"):
        patched.setenv("KILL_AT", "130")
        patched.setenv("KILL_WITH", "SIGINT")
        bottleneck(parts, **settings).train()
    with pytest.raises(ValueError, match=r"lr \(was 0.02\)"):
        bottleneck(parts, lr=0.01, **settings).train(resume=True)
    bottleneck(parts, **settings).train(resume=True)
    expected = load_file(whole / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(parts / "model.safetensors").items())
    assert (parts / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS, ids=["as in the paper", "from a regression"])
def test_two_processes_are_one(run_training, tmp_path, start):
    settings = {"steps": 30, "log_every": 1, **start}
    two = {"output": tmp_path / "two", "settings": settings, "bottleneck": True}
    assert run_training(two, processes=2) == [0, 0]
    bottleneck(tmp_path / "one", **settings).train()
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 31
    for one, other in zip(*logs):
        assert json.loads(other) == pytest.approx(json.loads(one), rel=2e-3, abs=1e-5)


def test_added_concepts_leave_the_rest_bit_for_bit(tmp_path):
    bottleneck(tmp_path / "cb").train()
    cb = CBSAE.from_pretrained(tmp_path / "cb")
    old = {name: tensor.clone() for name, tensor in cb.state_dict().items()}
    train, _, strengths = sparse_combinations()
    names = ["direction 6", "direction 7"]
    steps = []
    config = CBSAETrainConfig(steps=200, batch_size=500, lr=0.02)
    wider = add_concepts(
        cb,
        names,
        train,
        strengths,
        lambda texts: torch.eye(16)[[int(text.split()[-1]) for text in texts]],
        config=config,
        progress=lambda step, of: steps.append((step, of)),
    )
    assert steps[0] == (1, 200) and steps[-1] == (200, 200)
    assert wider.concepts == [*CONCEPTS, *names]
    for name, tensor in cb.state_dict().items():
        assert torch.equal(tensor, old[name])
        mine = wider.state_dict()[name]
        mine = mine[:, :6] if name == "W_enc_cb" else mine[:6] if name == "W_dec_cb" else mine
        assert torch.equal(mine, tensor)
    c = wider.concept_activations(train.rows)[:, 6:].detach()
    assert similarity_by_hand(c, strengths[:2500, 6:8]).min() > 0.5
    with pytest.raises(ValueError, match="there twice"):
        add_concepts(cb, ["direction 0"], train, strengths, lambda texts: torch.eye(16)[: len(texts)])
    stopped = add_concepts(
        cb, ["x"], train, strengths, lambda texts: torch.eye(16)[: len(texts)], config=config, stop=lambda: True
    )
    assert stopped.concepts[-1] == "x"


def test_what_does_not_fit_is_said():
    cb, (embeddings, texts) = untrained(), teacher()
    with pytest.raises(ValueError, match="5 texts of width 16 for 6 concepts"):
        BottleneckState(cb, CONFIG, embeddings, texts[:5])
    with pytest.raises(ValueError, match="no concept to train"):
        BottleneckState(cb, CONFIG, embeddings, texts, first=6)
    train, _, _ = sparse_combinations()
    with pytest.raises(ValueError, match="embedded 2999 images"):
        add_concepts(cb, ["x"], train, embeddings[1:], lambda texts: torch.zeros(len(texts), 16))
    with pytest.raises(ValueError, match="objectives must be some of"):
        CBSAETrainConfig(objectives=("steerability", "reconstruction"))


def embeddings_in(folder, rows):
    """A store of embeddings, as extraction leaves it."""
    manifest = {
        "encoder": {"encoder_id": "me/teacher", "encoder_revision": "sha256:0123456789abcdef", "tokens": "embedding"},
        "num_images": len(rows), "d_in": rows.shape[1], "tokens_per_image": 1,
    }  # fmt: skip
    store = ActivationStore(folder, manifest, np.arange(len(rows)), SimpleNamespace(counts=None))
    store.read = lambda start, stop: rows[start:stop]
    return store


def test_the_model_knows_its_teacher_by_the_store_of_the_embeddings(tmp_path, caplog):
    config = CBSAETrainConfig.from_dict(BOTTLENECK | {"steps": 2})
    train, heldout, strengths = sparse_combinations()
    store, texts = embeddings_in(tmp_path / "store", strengths), teacher()[1]
    CBSAETrainer(config, untrained(), train, heldout, store, texts, tmp_path / "cb").train()
    known = {"id": "me/teacher", "revision": "sha256:0123456789abcdef"}
    assert CBSAE.from_pretrained(tmp_path / "cb").teacher == known and "nobody will know" not in caplog.text
    other = untrained()
    other.provenance = replace(other.provenance, teacher={"id": "you/teacher", "revision": None})
    with pytest.raises(ValueError, match="teacher is .*you/teacher.*embeddings of .*me/teacher"):
        CBSAETrainer(config, other, train, heldout, store, texts, tmp_path / "other")
    CBSAETrainer(config, untrained(), train, heldout, strengths, texts, tmp_path / "unknown").train()
    assert "nobody will know the teacher of" in caplog.text
