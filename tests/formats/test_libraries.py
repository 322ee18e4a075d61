"""Imports and exports against the libraries themselves, where they are installed (``make test-peers``).

Of saev, PyPI has the first version only, and of ViT-Prisma one without SAEs.
"""

import json
from dataclasses import replace

import pytest
import torch
from foreign_files import GOLDEN, Weights, saev_first
from safetensors.torch import load_file, save_file

import cbsae_hub
from cbsae_hub.formats.convert import export_saelens, import_sae

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
DL_CLASSES = ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder")


def randomised(module):
    """Every parameter with random values of its own."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return module.eval()


# ------------------------------------------------------------------------------------------------------- SAELens


@pytest.mark.parametrize("write", GOLDEN["saelens"], ids=lambda write: write.__name__)
@torch.no_grad()
def test_files_for_saelens(write, tmp_path):
    """Our independent files are files of SAELens, and both read the same in them."""
    sae_lens = pytest.importorskip("sae_lens")
    if write.__name__ in ("saelens_training", "saelens_5_scaled"):
        pytest.skip("a checkpoint of training, which SAELens loads with its training class only")
    golden = write(tmp_path, Weights())
    theirs = sae_lens.SAE.load_from_disk(tmp_path, device="cpu")
    ours = import_sae(tmp_path)
    torch.testing.assert_close(ours.encode(golden.x), theirs.encode(golden.x), **CLOSE)
    torch.testing.assert_close(ours(golden.x).reconstruction, theirs(golden.x), atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["StandardSAE", "TopKSAE", "JumpReLUSAE", "GatedSAE"])
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("subtracts", [True, False])
@torch.no_grad()
def test_saelens_own_files(architecture, norm, subtracts, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    more = {"k": 5, "rescale_acts_by_decoder_norm": True} if architecture == "TopKSAE" else {}
    config = getattr(sae_lens, f"{architecture}Config")(
        d_in=12, d_sae=48, normalize_activations=norm, apply_b_dec_to_input=subtracts, **more
    )
    theirs = randomised(getattr(sae_lens, architecture)(config))
    theirs.save_model(tmp_path)
    ours = import_sae(tmp_path)
    x = Weights().x
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), **CLOSE)
    torch.testing.assert_close(ours(x).reconstruction, theirs(x), atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
@torch.no_grad()
def test_saelens_batchtopk_saved_in_both_ways(name, tmp_path):
    """As a checkpoint of training, and for inference, which is as jumprelu."""
    pytest.importorskip("sae_lens")
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(name)
    more = {"matryoshka_widths": [12, 48]} if name.startswith("matryoshka") else {}
    theirs = randomised(sae_class(config_class(d_in=12, d_sae=48, k=5, **more)))
    theirs.topk_threshold.fill_(0.4)
    theirs.save_model(tmp_path / "training")
    theirs.save_inference_model(tmp_path / "inference")
    training, inference = import_sae(tmp_path / "training"), import_sae(tmp_path / "inference")
    assert (training.activation, inference.activation) == ("batch_topk", "jumprelu")
    assert training.group_sizes == ((12, 36) if more else None)
    x = Weights().x
    torch.testing.assert_close(training.encode(x), inference.encode(x), **CLOSE)
    torch.testing.assert_close(training(x).reconstruction, inference(x).reconstruction, **CLOSE)


@torch.no_grad()
def test_saelens_loads_what_is_exported(sae, x, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    sae.provenance = replace(sae.provenance, encoder_id="openai/clip-vit-base-patch32", layer=9)
    export_saelens(sae, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path, device="cpu")
    torch.testing.assert_close(theirs.encode(x), sae.encode(x), **CLOSE)
    torch.testing.assert_close(theirs(x), sae(x).reconstruction, **CLOSE)
    assert theirs.cfg.metadata.hook_name == "blocks.9.hook_resid_post"
    theirs.save_model(tmp_path / "again")
    again = cbsae_hub.load(tmp_path / "again")
    assert torch.equal(again.encode(x), sae.encode(x))


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm"])
@torch.no_grad()
def test_saelens_normalises_as_we_do(make_sae, x, norm, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    sae = make_sae("gated", input_norm=norm)
    theirs = sae_lens.SAE.load_from_disk(export_saelens(sae, tmp_path), device="cpu")
    torch.testing.assert_close(theirs.encode(x), sae.encode(x), **CLOSE)
    torch.testing.assert_close(theirs(x), sae(x).reconstruction, **CLOSE)


# ------------------------------------------------------------------------------------------- dictionary_learning


def dl_model(name):
    pytest.importorskip("dictionary_learning")
    from dictionary_learning import dictionary, trainers

    if name in DL_CLASSES:
        return randomised(getattr(dictionary, name)(12, 48))
    if name == "MatryoshkaBatchTopKSAE":
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE

        model = randomised(MatryoshkaBatchTopKSAE(12, 48, 5, [12, 36]))
    else:
        model = randomised(
            getattr(trainers.top_k if name == "AutoEncoderTopK" else trainers.batch_top_k, name)(12, 48, 5)
        )
    model.threshold.fill_(0.4)
    return model


@pytest.mark.parametrize("name", [*DL_CLASSES, "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
@torch.no_grad()
def test_dictionary_learning_own_files(name, tmp_path):
    """As the library itself loads them: it makes an AutoEncoder's decoder rows unit."""
    torch.save(dl_model(name).state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": 5}}))
    from dictionary_learning.utils import load_dictionary

    theirs, _ = load_dictionary(str(tmp_path), "cpu")
    ours, x = import_sae(tmp_path), Weights().x
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), **CLOSE)
    torch.testing.assert_close(ours(x).reconstruction, theirs(x), **CLOSE)


@torch.no_grad()
def test_dictionary_learning_scales_as_we_do(tmp_path):
    """A backup is rescaled as the library rescales what it saves at the end."""
    theirs = dl_model("BatchTopKSAE")
    torch.save({"step": 1, "ae": theirs.state_dict(), "norm_factor": 7.0, "config": {}}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE"}}))
    ours, x = import_sae(tmp_path), 7 * Weights().x
    theirs.scale_biases(7.0)
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours(x).reconstruction, theirs(x), atol=1e-4, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ sparsify


@torch.no_grad()
def test_sparsify_own_files(tmp_path):
    sparsify = pytest.importorskip("sparsify")
    theirs = sparsify.SparseCoder(12, sparsify.SparseCoderConfig(num_latents=48, k=5))
    randomised(theirs).save_to_disk(tmp_path)
    ours, x = import_sae(tmp_path), Weights().x
    values, indices, _ = theirs.encode(x)
    torch.testing.assert_close(ours.encode(x), torch.zeros(len(x), 48).scatter(1, indices, values), **CLOSE)
    rows = load_file(tmp_path / "sae.safetensors")
    decoded = values[..., None] * rows["W_dec"][indices]
    torch.testing.assert_close(ours(x).reconstruction, decoded.sum(1) + rows["b_dec"], **CLOSE)


def test_sparsify_reads_our_files(tmp_path):
    sparsify = pytest.importorskip("sparsify")
    golden = GOLDEN["sparsify"][0](tmp_path, Weights())
    folder = tmp_path / "encoder.layers.3"
    theirs = sparsify.SparseCoder.load_from_disk(folder)
    values, indices, _ = theirs.encode(golden.x)
    latents = torch.zeros(len(golden.x), 48).scatter(1, indices, values).detach()
    torch.testing.assert_close(latents.double(), torch.from_numpy(golden.latents), **CLOSE)
    tensors = load_file(folder / "sae.safetensors") | {"W_skip": torch.eye(12)}
    save_file(tensors, folder / "sae.safetensors")
    with pytest.raises(OSError, match="W_skip"):
        import_sae(tmp_path)


# ---------------------------------------------------------------------------------------------------------- saev


@torch.no_grad()
def test_saev_own_files(tmp_path):
    nn = pytest.importorskip("saev.nn")
    from saev.config import SparseAutoencoder

    theirs = randomised(nn.SparseAutoencoder(SparseAutoencoder(d_vit=12, exp_factor=4)))
    nn.dump(str(tmp_path / "sae.pt"), theirs)
    ours, x = import_sae(tmp_path), Weights().x
    reconstruction, latents, _ = theirs(x)
    torch.testing.assert_close(ours.encode(x), latents, **CLOSE)
    torch.testing.assert_close(ours(x).reconstruction, reconstruction, **CLOSE)


@torch.no_grad()
def test_saev_reads_our_first_files(tmp_path):
    nn = pytest.importorskip("saev.nn")
    golden = saev_first(tmp_path, Weights())
    reconstruction, latents, _ = nn.load(str(tmp_path / "sae.pt"))(golden.x)
    torch.testing.assert_close(latents.double(), torch.from_numpy(golden.latents), **CLOSE)
    torch.testing.assert_close(reconstruction.double(), torch.from_numpy(golden.reconstruction), **CLOSE)
