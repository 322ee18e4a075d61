import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model

from training.photo_world.convert import (
    PIXELS,
    TOLERANCE,
    Node,
    config_of,
    convert,
    hub_weights,
    onnx_streams,
    save_encoder,
)
from training.photo_world.real import ONNX


@pytest.fixture
def tiny(tmp_path) -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=12, num_attention_heads=3, num_hidden_layers=2, image_size=56, patch_size=14, use_mask_token=False
    )
    return Dinov2Model(config).eval()


def graph_of(model: Dinov2Model, folder) -> tuple[dict[str, np.ndarray], list[Node]]:
    """What an export to ONNX leaves of a model: linear weights are transposed, known by nodes alone."""
    model.save_pretrained(folder)
    initialisers, nodes = (
        {"decoder.bias": np.zeros(3, np.float32)},
        [Node("MatMul", "/attention/MatMul", ("a", "b"), "c")],
    )
    for number, (name, weight) in enumerate(load_file(folder / "model.safetensors").items()):
        module, _, kind = name.rpartition(".")
        if name == "embeddings.position_embeddings":
            initialisers |= {"onnx::Reshape_1": weight[:, 1:].numpy(), "onnx::Concat_2": weight[:, :1].numpy()}
        elif kind == "weight" and weight.ndim == 2:
            initialisers[f"onnx::MatMul_{number}"] = weight.numpy().T.copy()
            path = "/backbone/" + module.replace(".", "/").replace("layer/", "layer.")
            nodes.append(Node("MatMul", f"{path}/MatMul", ("x", f"onnx::MatMul_{number}"), f"y{number}"))
        else:
            initialisers[f"backbone.{name}"] = weight.numpy()
    return initialisers, nodes


def test_an_exported_model_comes_back_as_it_was(tiny, tmp_path):
    weights = hub_weights(*graph_of(tiny, tmp_path / "exported"))
    save_encoder(weights, tmp_path / "encoder", heads=3)
    again = Dinov2Model.from_pretrained(tmp_path / "encoder").eval()
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = (model(pixels, output_hidden_states=True).hidden_states for model in (again, tiny))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_config_is_read_from_the_weights(tiny, tmp_path):
    config = config_of(hub_weights(*graph_of(tiny, tmp_path)), heads=3)
    names = "hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "image_size", "patch_size"
    assert [getattr(config, name) for name in names] == [getattr(tiny.config, name) for name in names]


def test_a_missing_weight_is_named(tiny, tmp_path):
    weights = hub_weights(*graph_of(tiny, tmp_path / "exported"))
    del weights["layernorm.weight"]
    with pytest.raises(ValueError, match=r"layernorm\.weight"):
        save_encoder(weights, tmp_path / "encoder", heads=3)


def test_a_graph_without_the_two_position_embeddings_is_refused(tiny, tmp_path):
    initialisers, nodes = graph_of(tiny, tmp_path)
    del initialisers["onnx::Concat_2"]
    with pytest.raises(ValueError, match="1 tensors that may be position embeddings"):
        hub_weights(initialisers, nodes)


def test_its_processor_shows_the_whole_of_a_square_picture(tiny, tmp_path):
    save_encoder(hub_weights(*graph_of(tiny, tmp_path / "exported")), tmp_path / "encoder", heads=3)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "encoder", backend="pil")
    pixels = np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    values = processor(images=[pixels], return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_the_real_encoder_agrees_with_onnxruntime_in_all_twelve_blocks(real):
    (file,) = real.glob(f"downloads/python-*/{ONNX}")
    pixels = np.random.default_rng(7).standard_normal((2, 3, PIXELS, PIXELS), dtype=np.float32)
    model = Dinov2Model.from_pretrained(real / "encoder").eval()
    with torch.no_grad():
        ours = model(torch.from_numpy(pixels), output_hidden_states=True).hidden_states[1:]
    theirs = onnx_streams(file, pixels)
    assert len(ours) == len(theirs) == 12
    for a, b in zip(ours, theirs):
        assert np.abs(a.numpy() - b).max() < TOLERANCE * np.abs(b).max()


def test_the_real_file_is_converted_with_no_weight_missing(real, tmp_path):
    (file,) = real.glob(f"downloads/python-*/{ONNX}")
    assert convert(file, tmp_path / "encoder") < TOLERANCE
