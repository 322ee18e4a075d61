import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import BUILD, PATCH, SIDE, TEXT, VISION, build, processor
from transformers import (
    AutoConfig,
    BitImageProcessor,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import folder_revision

ENCODERS = [name for name in BUILD if name not in ("CLIPModel", "LlavaForConditionalGeneration", "CLIPVisionModel")]


def pictures(count=3):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + i, 18, 3), np.uint8)) for i in range(count)]


@pytest.fixture(params=ENCODERS)
def name(request):
    return request.param


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_tokens_are_what_transformers_records(name, layer):
    model, prepare = build(name), processor(name)
    pixels = VisionEncoder(model, prepare, layer, "all").pixel_values(pictures())
    assert pixels.shape == (3, 3, SIDE, SIDE)
    expected = model(pixels, output_hidden_states=True).hidden_states[layer % 4 + 1]
    registers = {"Dinov2WithRegistersModel": 3, "DINOv3ViTModel": 3}.get(name, 0)
    cls = int(not name.startswith("Siglip"))
    wanted = {
        "all": expected,
        "patches": expected[:, cls + registers :],
        "mean": expected.mean(1, keepdim=True),
        **({"cls": expected[:, :1]} if cls else {}),
    }
    for tokens, value in wanted.items():
        encoder = VisionEncoder(model, prepare, layer, tokens)
        torch.testing.assert_close(encoder(pictures()), value, atol=1e-5, rtol=1e-5)
        assert encoder.tokens_per_image == value.shape[1]
    assert VisionEncoder(model, prepare, layer, "patches").grid == (2, 2)
    assert encoder.d_in == expected.shape[2] and encoder.num_layers == 4 and encoder.layer == layer % 4


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_the_later_blocks_alone_lead_to_the_embedding(name, layer):
    encoder = VisionEncoder(build(name), processor(name), layer, "all")
    torch.testing.assert_close(encoder.embed_from(encoder(pictures())), encoder.embed(pictures()))


@pytest.mark.parametrize("layer", [0, -1])
def test_what_was_edited_runs_on_to_the_embedding_that_the_edit_gives(name, layer):
    encoder = VisionEncoder(build(name), processor(name), layer, "patches")
    everything = VisionEncoder(encoder.model, encoder.processor, layer, "all")(pictures())
    edit = encoder.on_tokens(lambda v: v + torch.linspace(-3, 3, v.shape[-1]))
    with encoder.site.edit(edit):
        edited = encoder.embed(pictures())
    torch.testing.assert_close(encoder.embed_from(edit(everything)), edited)


def test_rotary_positions_are_those_of_the_pictures_grid():
    prepare = processor("DINOv3ViTModel")
    prepare.size = {"height": 2 * SIDE, "width": SIDE}
    encoder = VisionEncoder(build("DINOv3ViTModel"), prepare, 1, "all")
    assert encoder.grid == (4, 2)
    v, expected = encoder(pictures()), encoder.embed(pictures())
    torch.testing.assert_close(encoder.embed_from(v), expected)
    encoder.grid = (2, 4)
    assert (encoder.embed_from(v) - expected).abs().max() > 1e-3, "they matter"
    with pytest.raises(ValueError, match="11 tokens, of which 4 .* not those of a grid of 2 x 4"):
        encoder.embed_from(v[:, :-1])


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel", "ViTModel"])
def test_pictures_need_not_be_square(name):
    """Every picture becomes 24 x 16 pixels, by cropping or squashing: 3 x 2 patches, row by row."""
    model = build(name)
    if name == "ViTModel":
        torch.manual_seed(0)
        model = ViTModel(ViTConfig(**{**VISION, "image_size": [24, 16]}, intermediate_size=32), False).eval()
    encoder = VisionEncoder(model, processor(name, 24, 16), 1, "patches")
    assert encoder.grid == (3, 2) and encoder.tokens_per_image == 6
    pixels = encoder.pixel_values(pictures())
    assert pixels.shape == (3, 3, 24, 16)
    expected = model(pixels, output_hidden_states=True).hidden_states[2][:, -6:]
    torch.testing.assert_close(encoder(pictures()), expected, atol=1e-5, rtol=1e-5)
    changed = pixels.clone()
    changed[:, :, 16:, 8:] += 1  # the last patch
    site = VisionEncoder(model, encoder.processor, 0, "all")
    with site.site.capture() as seen:
        model(pixels), model(changed)
    moved = (seen.activations[0] - seen.activations[1]).abs().amax((0, 2))[-6:]
    assert moved.argmax() == 2 * encoder.grid[1] + 1
    every = VisionEncoder(model, encoder.processor, 1, "all")
    torch.testing.assert_close(every.embed_from(every(pictures())), every.embed(pictures()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"size": {"shortest_edge": 16}, "do_center_crop": False},
            "size={'shortest_edge': 16}, do_center_crop=False",
        ),
        ({"do_resize": False, "do_center_crop": False}, "do_resize=False, .*do_center_crop=False"),
    ],
)
def test_processors_that_keep_the_shape_of_pictures_are_refused(settings, said, tmp_path):
    """At the first picture of another shape, a whole extraction would be lost."""
    for name, kind in {"Dinov2Model": BitImageProcessor, "CLIPVisionModelWithProjection": CLIPImageProcessor}.items():
        folder = tmp_path / name
        build(name).save_pretrained(folder)
        kind(**settings).save_pretrained(folder)
        with pytest.raises(ValueError, match=rf"{kind.__name__}.* \(.*{said}\) .* set do_center_crop to true with a c"):
            VisionEncoder.from_pretrained(folder, 1, "patches")


@pytest.mark.parametrize("name", ["CLIPVisionModelWithProjection", "SiglipVisionModel", "ViTModel"])
def test_sizes_that_the_model_does_not_take_are_told_before_it_runs(name):
    """SigLIP would take 32 x 8 pixels without a word: they have as many patches as its 16 x 16."""
    for height, width in ((24, 16), (32, 8)):
        with pytest.raises(ValueError, match=f"{height} x {width} pixels .* takes 16 x 16: set crop_size or size"):
            VisionEncoder(build(name), processor(name, height, width))


def test_pixels_of_another_size_are_told():
    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"), 1, "patches")
    with pytest.raises(ValueError, match="24 x 16 pixels have 7 tokens; .* of its own grid of 2 x 2 patches have 5"):
        encoder(torch.zeros(2, 3, 24, 16))


def test_the_grid_is_that_of_the_processed_picture():
    model = Dinov2Model(Dinov2Config(**{**VISION, "image_size": 37 * PATCH})).eval()  # as DINOv2's own: 518 for 224
    encoder = VisionEncoder(model, processor("Dinov2Model"), 1, "patches")
    assert encoder.grid == (2, 2) and encoder(pictures()).shape[1] == encoder.tokens_per_image == 4


def test_batches_do_not_change_the_numbers(name):
    encoder = VisionEncoder(build(name), processor(name), -2, "patches")
    apart = torch.cat([encoder([picture]) for picture in pictures()])
    torch.testing.assert_close(encoder(pictures()), apart, atol=1e-5, rtol=1e-5)


def test_random_tokens_are_drawn_from_all_by_seed(name):
    encoder = VisionEncoder(build(name), processor(name), 1, "random:40")
    every = VisionEncoder(encoder.model, encoder.processor, 1, "all")(pictures())
    drawn = encoder(pictures(), seeds=[5, 6, 5])
    for image in range(3):
        distance = (drawn[image][:, None] - every[image]).abs().amax(-1)
        assert distance.min(1).values.max() < 1e-5
        different = len(every[image].round(decimals=4).unique(dim=0))  # registers start out alike
        assert len(distance.argmin(1).unique()) == different, "40 draws leave none out"
    places = [(drawn[i][:, None] - every[i]).abs().amax(-1).argmin(1) for i in range(3)]
    assert torch.equal(places[0], places[2]) and not torch.equal(places[0], places[1])


def test_saved_models_load_and_say_what_they_are(name, tmp_path):
    build(name).save_pretrained(tmp_path)
    processor(name).save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path, layer=1, tokens="all")
    pixels = encoder.pixel_values(pictures())
    expected = VisionEncoder(build(name), processor(name), 1, "all")(pixels)
    torch.testing.assert_close(encoder(pixels), expected, atol=1e-5, rtol=1e-5)
    without_pil = name == "DINOv3ViTModel"
    assert type(encoder.processor).__name__.endswith("Pil") != without_pil, "everybody gets the same pixels"
    said = encoder.provenance()
    assert said["encoder_revision"] == folder_revision(tmp_path)
    assert (said["layer"], said["tokens"], said["encoder_id"]) == (1, "all", str(tmp_path))
    assert said["preprocessing"]["image_mean"] == list(processor(name).image_mean)
    with pytest.raises(ValueError, match="another model"):
        VisionEncoder.from_pretrained(tmp_path, revision="sha256:0000000000000000")


def test_embeddings_are_unit_and_the_models_own(name):
    model = build(name)
    encoder = VisionEncoder(model, processor(name))
    output = model(encoder.pixel_values(pictures()))
    if name == "ViTModel":  # DINO's checkpoints have no pooler
        own = output.last_hidden_state[:, 0]
    else:
        own = output.image_embeds if name.startswith("CLIP") else output.pooler_output
    torch.testing.assert_close(encoder.embed(pictures()), own / own.norm(dim=1, keepdim=True))


def test_models_of_other_libraries_are_refused_with_advice(tmp_path):
    build("ViTModel").save_pretrained(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "open_clip_config.json")
    with pytest.raises(ValueError, match="OpenCLIP alone .* convert them to a CLIPModel"):
        VisionEncoder.from_pretrained(tmp_path)


def test_pickled_weights_on_the_hub_are_refused_with_advice(hub, tmp_path):
    build("ViTModel").save_pretrained(tmp_path)
    config, pickled = (tmp_path / "config.json").read_bytes(), {"pytorch_model.bin": b"cos\nsystem\n"}
    for repo_id, files in {"lab/vit": {"config.json": config}, "lab/open": {"open_clip_config.json": b"{}"}}.items():
        files = files | pickled
        hub.files[repo_id] = {"main": files, "a" * 40: files}
    with pytest.raises(OSError, match=r"lab/vit has no \*.safetensors .* revision='refs/pr/"):
        VisionEncoder.from_pretrained("lab/vit")
    with pytest.raises(ValueError, match="lab/open .* convert them to a CLIPModel"):
        VisionEncoder.from_pretrained("lab/open")
    assert not any("pytorch_model.bin" in request for request in hub.requests if request.startswith("GET"))
    assert not any("/commits/" in request for request in hub.requests), "no Space is asked to convert them"


def test_missing_weights_are_not_made_up(tmp_path):
    build("ViTModel").save_pretrained(tmp_path)
    processor("ViTModel").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of a ViTModel, which would be random: layernorm.weight$"):
        VisionEncoder.from_pretrained(tmp_path)


def test_a_classifier_gives_its_plain_vit(tmp_path):
    torch.manual_seed(0)
    classifier = ViTForImageClassification(ViTConfig(**VISION, intermediate_size=32)).eval()
    classifier.save_pretrained(tmp_path)
    processor("ViTModel").save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path)
    pixels = encoder.pixel_values(pictures())
    own = classifier.vit(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.embed(pixels), own / own.norm(dim=1, keepdim=True))


def test_a_whole_clip_checkpoint_gives_its_vision_tower(tmp_path):
    whole = build("CLIPModel")
    whole.save_pretrained(tmp_path)
    processor("CLIPModel").save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path)
    pixels = encoder.pixel_values(pictures())
    with torch.no_grad():
        expected = whole.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(encoder.embed(pixels), expected / expected.norm(dim=1, keepdim=True))


def other_width(**vision):
    """A CLIP whose vision config says another width of the projection than the model has, as bigG's does."""
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config={**VISION, "intermediate_size": 32, "projection_dim": 8, **vision},
        text_config=TEXT,
        projection_dim=12,
    )
    return CLIPModel(config).eval()


def siglip(**vision):
    torch.manual_seed(0)
    vision = {**VISION, "intermediate_size": 32, **vision}
    return SiglipModel(SiglipConfig(vision_config=vision, text_config={**TEXT, "vocab_size": 40})).eval()


def saved(model, folder, prepare="CLIPModel"):
    model.save_pretrained(folder)
    processor(prepare).save_pretrained(folder)
    return folder


def rewritten(folder, rename):
    """The weights of a folder under other names; None leaves one out."""
    file = folder / "model.safetensors"
    tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
    tensors.pop(None, None)
    save_file(tensors, file, {"format": "pt"})


@torch.no_grad()
def features(whole, pixels):
    return F.normalize(whole.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


@torch.no_grad()
def test_the_whole_models_config_says_how_wide_the_embedding_is(tmp_path):
    whole = other_width()
    encoder = VisionEncoder.from_pretrained(saved(whole, tmp_path))
    pixels = encoder.pixel_values(pictures())
    assert encoder.embed(pixels).shape == (3, 12)
    torch.testing.assert_close(encoder.embed(pixels), features(whole, pixels))
    torch.testing.assert_close(
        encoder(pixels), whole.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    )
    tower = encoder.model
    again = VisionEncoder.from_pretrained(saved(tower, tmp_path / "tower"))
    torch.testing.assert_close(again.embed(pixels), features(whole, pixels))


@torch.no_grad()
def test_openais_double_configs_are_read(tmp_path):
    whole = other_width()
    file = saved(whole, tmp_path) / "config.json"
    config = json.loads(file.read_text())
    config["vision_config_dict"], config["vision_config"] = config["vision_config"], {}
    file.write_text(json.dumps(config))
    encoder = VisionEncoder.from_pretrained(tmp_path)
    pixels = encoder.pixel_values(pictures())
    torch.testing.assert_close(encoder.embed(pixels), features(whole, pixels))


@pytest.mark.parametrize("names", ["as saved", "of transformers 4", "without prefix", "classifier"])
@torch.no_grad()
def test_activations_need_no_projection(names, tmp_path):
    tower = other_width().vision_model
    if names == "classifier":
        classifier = CLIPForImageClassification(other_width().config)
        classifier.vision_model.load_state_dict(tower.state_dict())
        saved(classifier, tmp_path)
    else:
        saved(tower, tmp_path)
    if names != "as saved" and names != "classifier":
        prefix = "vision_model." if names == "of transformers 4" else ""
        rewritten(tmp_path, lambda name: prefix + name.removeprefix("vision_model."))
    encoder = VisionEncoder.from_pretrained(tmp_path, layer=1, tokens="all")
    pixels = encoder.pixel_values(pictures())
    expected = tower(pixels, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(encoder(pixels), expected)
    with encoder.site.capture() as seen:  # with which the model runs to its end
        torch.testing.assert_close(encoder(pixels), expected)
    assert len(seen.activations) == 1
    for embed in (lambda: encoder.embed(pixels), lambda: encoder.embed_from(expected)):
        with pytest.raises(
            ValueError, match=f"{tmp_path} has no image embedding: its CLIPVisionModel has no visual_pro"
        ):
            embed()


@pytest.mark.parametrize("said", [True, False])
@torch.no_grad()
def test_a_siglip_without_head_has_activations_and_no_embedding(said, tmp_path):
    whole = siglip(vision_use_head=not said)
    saved(whole, tmp_path, "SiglipVisionModel")
    if not said:  # the config still tells of one
        rewritten(tmp_path, lambda name: None if name.startswith("vision_model.head.") else name)
    encoder = VisionEncoder.from_pretrained(tmp_path, layer=1)
    pixels = encoder.pixel_values(pictures())
    expected = whole.vision_model(pixels, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(encoder(pixels), expected)
    with encoder.site.capture():
        torch.testing.assert_close(encoder(pixels), expected)
    for embed in (lambda: encoder.embed(pixels), lambda: encoder.embed_from(expected)):
        with pytest.raises(ValueError, match="no image embedding: its SiglipVisionModel has no head"):
            embed()


def test_a_whole_siglip_gives_its_embedding(tmp_path):
    whole = siglip()
    encoder = VisionEncoder.from_pretrained(saved(whole, tmp_path, "SiglipVisionModel"))
    pixels = encoder.pixel_values(pictures())
    torch.testing.assert_close(encoder.embed(pixels), features(whole, pixels))


def test_towers_in_memory_say_what_they_lack():
    encoder = VisionEncoder(build("CLIPVisionModel"), processor("CLIPModel"), 1)
    assert encoder(pictures()).shape == (3, 4, 16)
    with pytest.raises(ValueError, match="this encoder has no image embedding: its CLIPVisionModel"):
        encoder.embed(pictures())
    with pytest.raises(ValueError, match="CLIPModel is more than a vision tower: VisionEncoder.from_pretrained"):
        VisionEncoder(build("CLIPModel"), processor("CLIPModel"))


def test_weights_that_do_not_fit_the_config_are_named(tmp_path):
    tower = CLIPVisionModelWithProjection(other_width().config.vision_config)
    file = saved(tower, tmp_path) / "config.json"
    file.write_text(file.read_text().replace('"projection_dim": 8', '"projection_dim": 24'))
    with pytest.raises(ValueError, match=r"visual_projection.weight is \(8, 16\), and the config asks for \(24, 16\)"):
        VisionEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "kind", ["chinese_clip", "align", "metaclip_2", "siglip2", "clipseg", "chinese_clip_vision_model"]
)
def test_other_kinds_of_clip_are_refused_by_name(kind, tmp_path):
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"no vision encoder of type '{kind}' is known; known are clip"):
        VisionEncoder.from_pretrained(tmp_path)


def test_encoders_of_half_precision_see_pictures(name):
    encoder = VisionEncoder(build(name), processor(name), 1)
    half = VisionEncoder(build(name).to(torch.bfloat16), processor(name), 1)
    assert F.cosine_similarity(half(pictures()), encoder(pictures()), dim=-1).min() > 0.98


@pytest.mark.parametrize("tokens", ["nonsense", "random:", "random:0", "random:-1", "CLS", None, 3])
def test_unknown_tokens_are_named(tokens):
    with pytest.raises(ValueError, match="cls, patches, all, mean or random:n"):
        VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"), 0, tokens)


def test_clear_errors():
    with pytest.raises(ValueError, match="no CLS token"):
        VisionEncoder(build("SiglipVisionModel"), processor("SiglipVisionModel"), 0, "cls")
    with pytest.raises(ValueError, match="no vision encoder of type 'llama'"):
        VisionEncoder(build("LlavaForConditionalGeneration").model.language_model, None)
    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"))
    with pytest.raises(ValueError, match="no images"):
        encoder([])
    for bad in (Image.new("RGB", (20, 20)), "one.png"):
        with pytest.raises(ValueError, match=r"as a list, also a single one: \[picture\]"):
            encoder(bad)
    for bad in ("one.png", np.zeros((20, 20, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected pictures of PIL, as Image.open gives them"):
            encoder([bad])


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(OSError, match="encoder hub/my-clip could not be loaded: it is no folder here. Check the"):
        VisionEncoder.from_pretrained("hub/my-clip")


@pytest.mark.parametrize("tokens", ["cls", "patches", "all", "random:2"])
def test_edits_change_the_chosen_tokens_alone(tokens):
    encoder = VisionEncoder(
        build("CLIPVisionModelWithProjection"), processor("CLIPVisionModelWithProjection"), 1, tokens
    )
    everything = VisionEncoder(encoder.model, encoder.processor, 1, "all")
    before = everything(pictures())
    with encoder.site.edit(encoder.on_tokens(lambda v: v + 1)):
        after = everything(pictures())
    changed = {"cls": [0], "patches": [1, 2, 3, 4]}.get(tokens, range(5))
    expected = before.clone()
    expected[:, list(changed)] += 1
    assert torch.equal(after, expected)


def test_the_mean_of_tokens_cannot_be_put_back():
    encoder = VisionEncoder(
        build("CLIPVisionModelWithProjection"), processor("CLIPVisionModelWithProjection"), 1, "mean"
    )
    with pytest.raises(ValueError, match="cannot be put back"):
        encoder.on_tokens(torch.zeros_like)
