"""Where SAEs of other projects lie, and whose activations they are of."""

import base64
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from foreign_files import (
    GOLDEN,
    Weights,
    dl_batch_topk,
    dl_matryoshka,
    dl_topk,
    prisma,
    saelens,
    saelens_standard,
    saev_batch_topk,
    saev_relu,
    saev_topk,
    sparsify,
)

import cbsae_hub
from cbsae_hub import SAE
from cbsae_hub.formats.convert import detect, import_sae
from cbsae_hub.formats.encoders import at_hook, of_sae_for_vlm, transformers_id
from cbsae_hub.formats.load import require_encoder
from cbsae_hub.models import ConfigError, ModelFileError

ONE_OF_EACH = [writers[0] for writers in GOLDEN.values()]
VLM = "imagenet_train_activations_{}_matroyshka_batch_top_k_20_x64/trainer_0/checkpoints"


def where(sae):
    return sae.encoder_id, sae.layer, sae.tokens


# --------------------------------------------------------------------------------------------- folders and files


@pytest.mark.parametrize("write", ONE_OF_EACH, ids=lambda write: write.__name__)
def test_a_file_alone_is_enough_to_point_at(write, tmp_path):
    golden = write(tmp_path, Weights())
    file = next(path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".safetensors"))
    sae = import_sae(file)
    np.testing.assert_allclose(sae.encode(golden.x).detach(), golden.latents, atol=1e-5)
    assert sae.imported_from["file"] == file.name and detect(file) == detect(tmp_path)


@pytest.mark.parametrize("write", ONE_OF_EACH, ids=lambda write: write.__name__)
def test_from_pretrained_says_what_loads_it(write, tmp_path):
    write(tmp_path, Weights())
    file = next(path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".safetensors"))
    for source in (tmp_path, file):
        with pytest.raises((ModelFileError, ConfigError), match=r"another library is loaded with cbsae_hub\.load"):
            SAE.from_pretrained(source)


@pytest.mark.parametrize("function", [cbsae_hub.load, import_sae, detect])
def test_an_argument_that_nobody_knows_is_an_error(function, hub, tmp_path):
    for source in (tmp_path / "ours", "me/nothing"):
        SAE(8, 16).save_pretrained(tmp_path / "ours")
        with pytest.raises(TypeError, match="unexpected keyword argument 'revison'"):
            function(source, revison="main")


def test_one_alone_has_no_name(tmp_path):
    saelens_standard(tmp_path, Weights())
    with pytest.raises(ModelFileError, match="no SAE 'blocks.3'; it holds one, without a name: leave sae_id out"):
        import_sae(tmp_path, sae_id="blocks.3")


def test_several_are_listed_to_choose_from(tmp_path):
    w = Weights()
    saelens_standard(tmp_path / "blocks.3", w)
    saelens_standard(tmp_path / "deep" / "blocks.4", w)
    sparsify(tmp_path / "other", w)
    dl_topk(tmp_path / "dl", w)
    with pytest.raises(
        ModelFileError, match="several SAEs: say which with sae_id=; there are blocks.3, deep/blocks.4, "
    ):
        import_sae(tmp_path)
    for sae_id, name in (
        ("blocks.3", "saelens"),
        ("deep/blocks.4", "saelens"),
        ("deep", "saelens"),
        ("./deep/", "saelens"),
        ("other/encoder.layers.3", "sparsify"),
        ("dl/trainer_0", "dictionary_learning"),
        ("dl/trainer_0/ae.pt", "dictionary_learning"),
    ):
        assert detect(tmp_path, sae_id=sae_id) == name
        assert import_sae(tmp_path, sae_id=sae_id).d_sae == 48
        assert cbsae_hub.load(tmp_path, sae_id=sae_id).imported_from["format"] == name
    with pytest.raises(ModelFileError, match="no SAE 'blocks.9'; there are blocks.3"):
        import_sae(tmp_path, sae_id="blocks.9")
    assert import_sae(tmp_path, format="dictionary_learning").activation == "topk", "of that format there is one"


def test_the_last_checkpoint_of_a_run(tmp_path):
    dl_batch_topk(tmp_path, Weights(seed=1))
    folder = tmp_path / "trainer_0" / "checkpoints"
    shutil.copy(folder / "ae_2000.pt", folder / "ae_900.pt")
    sae = import_sae(tmp_path)
    assert sae.imported_from["file"] == "trainer_0/checkpoints/ae_2000.pt"
    assert import_sae(folder).imported_from["file"] == "ae_2000.pt"
    dl_topk(tmp_path, Weights())
    assert import_sae(tmp_path).imported_from["file"] == "trainer_0/ae.pt", "the run is done"
    assert import_sae(tmp_path, sae_id="trainer_0/ae.pt").imported_from["file"] == "trainer_0/ae.pt"


def test_files_of_unknown_names_are_each_an_sae(tmp_path):
    dl_matryoshka(tmp_path, Weights())
    file = tmp_path / "trainer_0" / "ae.pt"
    for name in ("one.pt", "two.pt"):
        shutil.copy(file, tmp_path / name)
    shutil.rmtree(tmp_path / "trainer_0")
    with pytest.raises(ModelFileError, match="one.pt, two.pt"):
        import_sae(tmp_path)
    assert import_sae(tmp_path, sae_id="two.pt").group_sizes == (12, 36)


def test_without_a_config_the_two_that_look_alike_are_read_by_the_threshold(tmp_path):
    golden = dl_batch_topk(tmp_path, Weights())
    (tmp_path / "trainer_0" / "config.json").unlink()
    sae = import_sae(tmp_path)
    np.testing.assert_allclose(sae.encode(golden.x).detach(), golden.latents, atol=1e-5)
    assert any("AutoEncoderTopK or BatchTopKSAE" in note for note in sae.imported_from["notes"])


def test_what_was_looked_for_is_said(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    (tmp_path / ".hidden").mkdir()
    saelens_standard(tmp_path / ".hidden", Weights())
    for call in (detect, import_sae, cbsae_hub.load):
        with pytest.raises(ModelFileError, match="no cfg.json and sae_weights.safetensors .saelens.*sae.pt.*prisma"):
            call(tmp_path)
    for source in ("no/such/place", "nowhere", tmp_path / "nowhere"):
        with pytest.raises(ModelFileError, match="no existing folder or file"):
            import_sae(source)
    with pytest.raises(ValueError, match="format must be one of cbsae_hub, saelens"):
        import_sae(tmp_path, format="onnx")
    with pytest.raises(ModelFileError, match="no revision"):
        import_sae(tmp_path, revision="main")


def test_a_state_dict_of_nobody(tmp_path):
    torch.save({"weight": torch.zeros(3, 2)}, tmp_path / "ae.pt")
    with pytest.raises(ConfigError, match="weight, which is no layout known. Known: AutoEncoder: encoder.weight"):
        import_sae(tmp_path)


# ----------------------------------------------------------------------------------------------------------- Hub


def publish(hub, folder, repo_id):
    """Puts a folder into the stand-in for the Hub; returns the commit."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.files[repo_id] = {"main": {}}
    lines = [{"path": name, "content": base64.b64encode(content)} for name, content in files.items()]
    return hub.commit(repo_id, [{"key": "file", "value": line} for line in lines])[0]


def downloaded(hub, repo_id):
    prefix = f"GET /{repo_id}/resolve/"
    return {call.removeprefix(prefix).partition("/")[2] for call in hub.requests if call.startswith(prefix)}


@pytest.mark.parametrize("write", ONE_OF_EACH, ids=lambda write: write.__name__)
def test_from_the_hub_and_from_the_cache(hub, write, tmp_path, monkeypatch):
    golden = write(tmp_path / "theirs", Weights())
    (tmp_path / "theirs" / "README.md").write_text("large")
    commit = publish(hub, tmp_path / "theirs", "they/saes")
    sae = cbsae_hub.load("they/saes")
    np.testing.assert_allclose(sae.encode(golden.x).detach(), golden.latents, atol=1e-5)
    assert (sae.repo_id, sae.revision) == ("they/saes", commit)
    assert sae.imported_from["source"] == "they/saes" and sae.imported_from["revision"] == commit
    assert "README.md" not in downloaded(hub, "they/saes")
    offline = cbsae_hub.load("they/saes", local_files_only=True)
    assert torch.equal(offline.W_enc, sae.W_enc)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(cbsae_hub.load("they/saes").W_enc, sae.W_enc)
    with pytest.raises(ModelFileError, match="not in the cache"):
        cbsae_hub.load("they/others")


def test_of_a_repository_of_many_only_one_is_downloaded(hub, tmp_path):
    w = Weights()
    for run in ("layer_13/aaaa", "layer_23/bbbb"):
        saev_relu(tmp_path / run, w)
    publish(hub, tmp_path, "osunlp/SAE_DINOv3_ViT-L-16_IN1K")
    with pytest.raises(ModelFileError, match="sae_id=; there are layer_13/aaaa, layer_23/bbbb"):
        cbsae_hub.load("osunlp/SAE_DINOv3_ViT-L-16_IN1K")
    assert not downloaded(hub, "osunlp/SAE_DINOv3_ViT-L-16_IN1K")
    sae = cbsae_hub.load("osunlp/SAE_DINOv3_ViT-L-16_IN1K", sae_id="layer_23")
    assert downloaded(hub, "osunlp/SAE_DINOv3_ViT-L-16_IN1K") == {"layer_23/bbbb/sae.pt"}
    assert where(sae) == ("facebook/dinov3-vitl16-pretrain-lvd1689m", 23, "patches")


def test_what_the_hub_refuses_is_said(hub, tmp_path):
    publish(hub, saelens(tmp_path, Weights()), "they/sae")
    for call in (import_sae, detect, cbsae_hub.load):
        with pytest.raises(ModelFileError, match="does not exist or needs a token"):
            call("they/nothing")
        with pytest.raises(ModelFileError, match="no revision 'v9'"):
            call("they/sae", revision="v9")
    hub.fail(r"GET /api/models/they/sae", 500)
    with pytest.raises(
        ModelFileError, match="list of files of they/sae could not be downloaded, the Hub is in trouble"
    ):
        import_sae("they/sae")
    hub.heal()
    hub.fail(r"GET .*sae_weights", 403)
    with pytest.raises(ModelFileError, match="sae_weights.safetensors of they/sae"):
        import_sae("they/sae")


# ------------------------------------------------------------------------------------------------------ encoders


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("facebook/dino-vitb16", "facebook/dino-vitb16"),
        ("dino-vitb16", "facebook/dino-vitb16"),
        ("ViT-B-16/openai", "openai/clip-vit-base-patch16"),
        ("hf-hub:imageomics/bioclip", "imageomics/bioclip"),
        ("dino_vitb8", "facebook/dino-vitb8"),
        ("dinov2_vitb14_reg", "facebook/dinov2-with-registers-base"),
        ("dinov3_vitl16", "facebook/dinov3-vitl16-pretrain-lvd1689m"),
        ("dinov3-vits16plus-pretrain-lvd1689m", "facebook/dinov3-vits16plus-pretrain-lvd1689m"),
        ("clip-vit-large-patch14-336", "openai/clip-vit-large-patch14-336"),
        ("siglip-so400m-patch14-384", "google/siglip-so400m-patch14-384"),
        ("dinov2-base", "facebook/dinov2-base"),
        ("gpt2-small", None),
        (None, None),
        (7, None),
    ],
)
def test_names_of_encoders(model, expected):
    assert transformers_id(model) == expected


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.9.hook_resid_post", 9),
        ("blocks.9.hook_resid_pre", 8),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.9.hook_mlp_out", None),
        ("vision_model.encoder.layers.11", 11),
        ("encoder.layer.3.output", 3),
        ("transformer.resblocks.10", 10),
        ("encoder.layers.4.mlp", None),
        ("visual_projection", None),
    ],
)
def test_hooks(hook, layer):
    explained = at_hook("me/encoder", hook)
    assert explained.layer == layer
    assert bool(explained.notes) == (layer is None), "what cannot be read is said"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            f"checkpoints_dir/x/random_k_2/{VLM.format('clip-vit-large-patch14-336_22_post_mlp_residual')}",
            ("openai/clip-vit-large-patch14-336", 22, "random:2"),
        ),
        (VLM.format("siglip-so400m-patch14-384_11_post_mlp_residual"), ("google/siglip-so400m-patch14-384", 11, "cls")),
        (
            VLM.format("clip-vit-large-patch14-336_-1_post_projection"),
            ("openai/clip-vit-large-patch14-336", None, "cls"),
        ),
        (VLM.format("dinov2-base_3_post_mlp_residual"), ("facebook/dinov2-base", 3, "cls")),
        (VLM.format("llava_med_3_post_mlp_residual"), (None, 3, "cls")),
        ("somewhere/else", (None, None, None)),
    ],
)
def test_folders_of_sae_for_vlm(path, expected, tmp_path):
    explained, kind = of_sae_for_vlm(f"{path}/ae_100000.pt".split("/"))
    assert (explained.encoder_id, explained.layer, explained.tokens) == expected
    assert kind == (None if path == "somewhere/else" else "matroyshka_batch_top_k")
    golden = dl_matryoshka(tmp_path / "made", Weights())
    folder = tmp_path / path
    folder.mkdir(parents=True)
    shutil.copy(golden.path / "trainer_0" / "ae.pt", folder / "ae_100000.pt")
    for source in (folder / "ae_100000.pt", folder, tmp_path / path.split("/")[0]):
        sae = import_sae(source)
        assert where(sae) == expected
        np.testing.assert_allclose(sae.encode(golden.x).detach(), golden.latents, atol=1e-5)


def test_the_folder_tells_top_k_from_batch_top_k(tmp_path):
    golden = dl_topk(tmp_path / "made", Weights())
    folder = tmp_path / VLM.format("clip-vit-large-patch14-336_22_post_mlp_residual").replace("matroyshka_batch_", "")
    folder.mkdir(parents=True)
    shutil.copy(golden.path / "trainer_0" / "ae.pt", folder / "ae_100000.pt")
    sae = import_sae(folder)
    assert sae.activation == "topk"
    np.testing.assert_allclose(sae.encode(golden.x).detach(), golden.latents, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", 3, "all")),
        ({"cls_token_only": True}, ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", 3, "cls")),
        ({"use_patches_only": True}, ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", 3, "patches")),
        ({"hook_point_layer": [11]}, ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", 11, "all")),
        ({"layer_subtype": "hook_mlp_out"}, ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", None, "all")),
        ({"model_name": "facebook/dino-vitb16"}, ("facebook/dino-vitb16", 3, "all")),
        ({"model_name": "vit_base_patch16_224"}, (None, 3, "all")),
    ],
)
def test_configs_of_prisma(tmp_path, change, expected):
    assert where(import_sae(prisma(tmp_path, Weights(), **change))) == expected


@pytest.mark.parametrize(
    ("repo", "write", "expected"),
    [
        ("SAE_CLIP_24K_ViT-B-16_IN1K", saev_relu, ("openai/clip-vit-base-patch16", 10, "patches")),
        ("SAE_DINOv2_24K_ViT-B-14_IN1K", saev_relu, ("facebook/dinov2-with-registers-base", 10, "patches")),
        ("SAE_BioCLIP_24K_ViT-B-16_iNat21", saev_topk, ("imageomics/bioclip", 10, "patches")),
        ("SAE_DINOv3_ViT-S-16_IN1K", saev_batch_topk, ("facebook/dinov3-vits16-pretrain-lvd1689m", None, "patches")),
        ("something", saev_relu, (None, None, None)),
    ],
)
def test_repositories_of_saev(tmp_path, repo, write, expected):
    write(tmp_path / repo, Weights())
    assert where(import_sae(tmp_path / repo)) == expected


def test_configs_of_the_others(tmp_path):
    w = Weights()
    told = {"model_name": "open-clip:laion/x", "hook_name": "blocks.5.hook_resid_post", "cls_token_only": True}
    assert where(import_sae(saelens(tmp_path / "1", w, metadata=told))) == ("laion/x", 5, "cls")
    assert where(import_sae(sparsify(tmp_path / "2", w).path)) == ("me/encoder", 3, None)
    assert where(import_sae(dl_topk(tmp_path / "3", w).path)) == ("me/encoder", 3, None)
    head = saelens(tmp_path / "4", w, metadata={**told, "hook_head_index": 3})
    assert where(import_sae(head)) == (None, None, None)


def test_what_is_missing_is_asked_for_by_name(tmp_path, caplog):
    golden = saelens_standard(tmp_path, Weights())
    with caplog.at_level(logging.WARNING, "cbsae_hub"):
        sae = cbsae_hub.load(tmp_path)
    assert "not known: say layer=..., tokens=... to use it with an encoder" in caplog.text
    with pytest.raises(ValueError, match=r"load it with layer=..., tokens=..., as in"):
        require_encoder(sae)
    said = cbsae_hub.load(tmp_path, encoder_id="you/encoder", encoder_revision="abc", layer=2, tokens="cls")
    require_encoder(said)
    assert (*where(said), said.encoder_revision) == ("you/encoder", 2, "cls", "abc")
    assert "encoder_id is 'you/encoder' as was said, though its files say 'me/encoder'" in said.imported_from["notes"]
    assert torch.equal(said.encode(golden.x), sae.encode(golden.x))
    for tokens in ("banana", "random:0", 3):
        with pytest.raises(ValueError, match="tokens must be cls, patches, all, mean or random:n, got"):
            cbsae_hub.load(tmp_path, tokens=tokens)
    with pytest.raises(ValueError, match="layer must be an integer"):
        cbsae_hub.load(tmp_path, layer="two")


def test_long_configs_are_kept_in_part(tmp_path):
    many = {f"key_{i}": "x" * 400 for i in range(100)}
    sae = import_sae(saelens(tmp_path, Weights(), **many, log=list(range(5000))))
    kept = sae.imported_from["config"]
    assert kept["architecture"] == "standard" and "log" not in kept
    assert len(json.dumps(kept)) < 12_001
