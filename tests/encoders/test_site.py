"""Hooks do nothing, silently, in many ways on transformers 5: every model class is tried cold and warm."""

import threading
from types import SimpleNamespace

import pytest
import torch
from tiny_models import BUILD, LAYERS, SIDE, build

from cbsae_hub.encoders.site import EditError, ResidualSite, read_sites, run_blocks


def features(model, pixels):
    """What the model passes on to whoever uses it."""
    name = type(model).__name__
    if name == "CLIPModel":
        return model.get_image_features(pixel_values=pixels).pooler_output
    if name.startswith("Llava"):
        return torch.stack(list(model.get_image_features(pixel_values=pixels).pooler_output))
    if name == "CLIPVisionModelWithProjection":
        return model(pixels).image_embeds
    return model(pixels).last_hidden_state


def hidden_states(model, pixels):
    """Outputs of all blocks as transformers itself records them: an independent view of the residual stream."""
    if type(model).__name__.startswith("Llava"):
        model = model.model.vision_tower
    elif type(model).__name__ == "CLIPModel":
        model = model.vision_model
    return model(pixels, output_hidden_states=True).hidden_states


@pytest.fixture(params=BUILD)
def model(request):
    return build(request.param)


def shift(v):
    return v + torch.linspace(-3, 3, v.shape[-1])


@pytest.mark.parametrize("warm", [False, True])
@torch.no_grad()
def test_edit_reaches_the_features_and_detaches(model, pixels, warm):
    if warm:
        hidden_states(model, pixels)
    site = ResidualSite.find(model, -2)
    with site.edit(shift):
        edited = features(model, pixels)
    plain = features(model, pixels)
    assert (edited - plain).abs().max() > 1e-3
    assert torch.equal(plain, features(build(type(model).__name__), pixels))
    with site.edit(shift):
        assert torch.equal(features(model, pixels), edited)


@torch.no_grad()
def test_edit_reaches_recorded_hidden_states_after_a_warm_up(model, pixels):
    before = hidden_states(model, pixels)
    with ResidualSite.find(model, 1).edit(shift):
        after = hidden_states(model, pixels)
    torch.testing.assert_close(after[2], shift(before[2]))
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("layer", [0, 2, -2])
@torch.no_grad()
def test_capture_is_the_output_of_the_block_in_batches(model, pixels, layer):
    expected = hidden_states(model, pixels)[layer % LAYERS + 1]
    with ResidualSite.find(model, layer).capture() as seen:
        features(model, pixels[:2])
        features(model, pixels[2:])
    assert [len(v) for v in seen.activations] == [2, 1]
    torch.testing.assert_close(torch.cat(seen.activations), expected)


@torch.no_grad()
def test_blocks_run_on_as_the_model_runs_them(model, pixels):
    passed = hidden_states(model, pixels)
    torch.testing.assert_close(run_blocks(model, passed[1], 1), passed[LAYERS])
    torch.testing.assert_close(run_blocks(model, passed[0], 0, last=1), passed[2])
    assert torch.equal(run_blocks(model, passed[LAYERS], LAYERS), passed[LAYERS])


@torch.no_grad()
def test_rotary_positions_need_the_grid():
    model = build("DINOv3ViTModel")
    passed = hidden_states(model, torch.randn(1, 3, SIDE, 2 * SIDE))
    torch.testing.assert_close(run_blocks(model, passed[1], 1, grid=(2, 4)), passed[LAYERS])
    with pytest.raises(ValueError, match=r"need all tokens and grid=\(rows, columns\)"):
        run_blocks(model, passed[1], 1)


@pytest.mark.parametrize("layer", [0, -1])
@torch.no_grad()
def test_what_is_read_is_what_is_captured_and_later_blocks_are_spared(model, pixels, layer):
    site, last = ResidualSite.find(model, layer), ResidualSite.find(model, -1)
    with site.capture() as seen:
        plain = features(model, pixels)
    calls = []
    counter = last.block.register_forward_pre_hook(lambda *_: calls.append(1))
    assert torch.equal(site.read(lambda: features(model, pixels)), seen.activations[0])
    assert len(calls) == (layer == -1)
    assert torch.equal(features(model, pixels), plain), "nothing stays behind"
    calls.clear()
    with site.edit(shift), last.capture():  # another one waits for what passes later
        assert torch.equal(site.read(lambda: features(model, pixels)), shift(seen.activations[0]))
    assert len(calls) == 1
    counter.remove()
    with pytest.raises(EditError, match="nothing was captured"):
        site.read(lambda: None)


@torch.no_grad()
def test_nested_edits_run_in_the_order_of_entering(model, pixels):
    site = ResidualSite.find(model, 1)
    with site.capture() as first, site.edit(lambda v: 2 * v), site.capture() as second, site.edit(lambda v: v + 1):
        with site.capture() as third:
            features(model, pixels)
    plain = first.activations[0]
    torch.testing.assert_close(second.activations[0], 2 * plain)
    torch.testing.assert_close(third.activations[0], 2 * plain + 1)


@torch.no_grad()
def test_sites_of_two_layers_work_together(model, pixels):
    low, high = ResidualSite.find(model, 0), ResidualSite.find(model, 2)
    with high.capture() as plain:
        features(model, pixels)
    with low.edit(shift), high.capture() as after_low:
        features(model, pixels)
    with high.edit(torch.zeros_like), low.edit(shift), high.capture() as zeros:
        features(model, pixels)
    assert not torch.equal(plain.activations[0], after_low.activations[0])
    assert zeros.activations[0].abs().max() == 0


@torch.no_grad()
def test_everything_detaches_after_an_error(model, pixels):
    site = ResidualSite.find(model, -1)
    plain = features(model, pixels)
    with pytest.raises(KeyError), site.edit(shift), site.capture():
        features(model, pixels)
        raise KeyError
    assert torch.equal(features(model, pixels), plain)


@torch.no_grad()
def test_no_silent_no_op(model, pixels):
    site = ResidualSite.find(model, -2)
    with pytest.raises(EditError, match="no forward pass"), site.edit(shift):
        pass
    with pytest.raises(EditError, match="no forward pass"), site.capture():
        pass
    with pytest.raises(EditError, match="unchanged"), site.edit(torch.clone):
        features(model, pixels)
    with site.edit(torch.clone, allow_identity=True):
        features(model, pixels)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda v: v[:, :1], "must return"),
        (lambda v: v.double(), "must return"),
        (lambda v: None, "NoneType"),
        (lambda v: v / 0, "NaN or infinite"),
    ],
)
@torch.no_grad()
def test_bad_edits_are_named(pixels, bad, message):
    model = build("Dinov2Model")
    with pytest.raises(EditError, match=message), ResidualSite.find(model, 0).edit(bad):
        features(model, pixels)


@torch.no_grad()
def test_another_thread_is_not_steered(pixels):
    model = build("CLIPVisionModelWithProjection")
    site = ResidualSite.find(model, -2)
    plain = features(model, pixels)
    found = {}

    def unsteered():
        found["other"] = features(model, pixels)

    with site.edit(shift):
        thread = threading.Thread(target=unsteered)
        thread.start()
        thread.join()
        found["mine"] = features(model, pixels)
    assert torch.equal(found["other"], plain)
    assert not torch.equal(found["mine"], plain)


def test_a_pipelines_image_encoder_is_found():
    encoder = build("CLIPVisionModelWithProjection")
    site = ResidualSite.find(SimpleNamespace(image_encoder=encoder), -1)
    assert site.block is encoder.vision_model.encoder.layers[LAYERS - 1]


@torch.no_grad()
def test_towers_in_a_llava_are_found_and_run_on(pixels):
    whole = build("LlavaForConditionalGeneration")
    decoder, tower = whole.model.language_model, build("DINOv3ViTModel")
    passed = hidden_states(tower, pixels)
    holder = torch.nn.Module()  # as LLaVA's original code: the decoder's blocks lie on the way to the tower
    holder.model = decoder
    with pytest.raises(ValueError, match="no vision blocks found in Module.model"):
        ResidualSite.find(holder, 0)
    decoder.vision_tower = tower
    assert ResidualSite.find(holder, 1).block is ResidualSite.find(tower, 1).block
    torch.testing.assert_close(run_blocks(holder, passed[1], 1), passed[LAYERS])


def test_missing_layers_and_towers_are_named():
    with pytest.raises(ValueError, match="has 4 layers"):
        ResidualSite.find(build("Dinov2Model"), 4)
    for layer in (None, "4", 1.0, True):
        with pytest.raises(ValueError, match="layer must be the number of a block of Dinov2Model"):
            ResidualSite.find(build("Dinov2Model"), layer)
    with pytest.raises(ValueError, match="no vision blocks found in Linear"):
        ResidualSite.find(torch.nn.Linear(2, 2), 0)


@torch.no_grad()
def test_several_sites_are_read_in_one_run_that_ends_at_the_last_of_them(model, pixels):
    sites = [ResidualSite.find(model, layer) for layer in (2, 0, 2)]
    expected = [hidden_states(model, pixels)[layer] for layer in (3, 1, 3)]
    calls = []
    counter = ResidualSite.find(model, 3).block.register_forward_pre_hook(lambda *_: calls.append(1))
    for one, other in zip(read_sites(sites, lambda: features(model, pixels)), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not calls
    counter.remove()
    with sites[1].edit(shift):
        edited = read_sites(sites, lambda: features(model, pixels))
    assert torch.equal(edited[1], shift(expected[1])) and not torch.equal(edited[0], expected[0])
    with pytest.raises(EditError, match="nothing was captured"):
        read_sites(sites, lambda: None)
