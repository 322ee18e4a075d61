"""A linear code of canonical pictures, layer by layer, and the decoder that begins as its inverse.

A canonical picture is made of two layers, objects in front of a background. Each is a linear thing; their composition
is not. So the code is taken of the layers, which the renderer knows: four times, 2 x 2 positions become one and are
reduced to principal components. A decoder that undoes these steps, and lets objects hide the background by one ReLU,
draws well before anything is learned (:func:`start_as_inverse`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from diffusers.models.autoencoders.autoencoder_dc import Decoder, ResBlock
from safetensors.torch import load_file, save_file

from cbsae_hub.hub.files import replace_file
from training.emoji_world.glyphs import Atlas
from training.emoji_world.render import SIDE, canonical_layers

LAYERS = 7  # channels: colours of the objects times their opacity, opacity, colours of the background
CHANNELS = 64  # of a latent
WIDTHS = (16, 32, 64, 128, 128)  # channels of the decoder at 64, 32, 16, 8 and 4 pixels a side
LATENT_SIDE = SIDE // 2 ** (len(WIDTHS) - 1)
BACKGROUND = 0.5  # weight of the background's colours: they are the simpler layer, and take fewer components so
# Components are divided by their deviation to this power: details, which vary little, count more than in the pixels,
# and less than if all components were alike.
WHITENED = 0.5
CONSTANT = 64.0  # value of the channel that keeps the decoder's last norm from changing anything


@dataclass(frozen=True)
class LayerCode:
    """Principal components of principal components of layers.

    Attributes:
        means: The mean of the features of 2 x 2 positions side by side, ``[4 c]``, of each of four steps.
        components: Their components, the largest first: ``[features, 4 c]`` with orthonormal rows, of each step.
        deviations: Factor by which the last components are divided, ``[CHANNELS]``; latents have a variance of 1.
    """

    means: list[torch.Tensor]
    components: list[torch.Tensor]
    deviations: torch.Tensor

    @classmethod
    def measure(cls, layers: torch.Tensor) -> "LayerCode":
        """The code of these layers, ``[n, LAYERS, 64, 64]`` as :func:`weighted_layers` gives them."""
        means, components, features = [], [], layers
        for width in (*WIDTHS[1:-1], CHANNELS):
            features = _side_by_side(features)
            rows = features.movedim(1, -1).flatten(0, -2).double()
            mean = rows.mean(0)
            _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # ascending
            largest = vectors[:, -width:].flip(1)
            signs = largest.gather(0, largest.abs().argmax(0, keepdim=True)).sign()  # the same on each machine
            means.append(mean.float())
            components.append((largest * signs).T.float().contiguous())
            features = _project(features, means[-1], components[-1])
        spread = features.movedim(1, -1).flatten(0, -2).std(0)
        scale = spread.clamp(min=1e-3 * spread.max()) ** WHITENED
        return cls(means, components, scale * (spread / scale).square().mean().sqrt())

    def encode(self, layers: torch.Tensor) -> torch.Tensor:
        """Latents ``[n, CHANNELS, 4, 4]`` of weighted layers ``[n, LAYERS, 64, 64]``."""
        for mean, components in zip(self.means, self.components):
            layers = _project(_side_by_side(layers), mean, components)
        return layers / self.deviations[:, None, None]

    def save(self, path: Path) -> None:
        """Writes the code as safetensors."""
        tensors = {"deviations": self.deviations}
        for step, (mean, components) in enumerate(zip(self.means, self.components)):
            tensors |= {f"means.{step}": mean, f"components.{step}": components}
        with replace_file(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def read(cls, path: Path) -> "LayerCode":
        """The code that :meth:`save` wrote."""
        tensors = load_file(path)
        steps = range(len(WIDTHS) - 1)
        return cls(
            [tensors[f"means.{step}"] for step in steps],
            [tensors[f"components.{step}"] for step in steps],
            tensors["deviations"],
        )


def weighted_layers(
    atlas: Atlas, concepts: np.ndarray, backgrounds: np.ndarray, styles: np.ndarray | None = None
) -> torch.Tensor:
    """Draws the layers of canonical pictures: objects, opacity, weighted background; ``[n, LAYERS, 64, 64]``."""
    objects, opacity, background = canonical_layers(atlas, concepts, backgrounds, styles)
    return torch.cat([objects, opacity, BACKGROUND * background], 1)


def build() -> AutoencoderDC:
    """A fresh autoencoder of 64 x 64 pictures with 4 x 4 latents, whose weights are its library's own."""
    blocks = (1,) * len(WIDTHS)
    return AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=WIDTHS,
        decoder_block_out_channels=WIDTHS,
        encoder_layers_per_block=blocks,
        decoder_layers_per_block=blocks,
        encoder_qkv_multiscales=((),) * len(WIDTHS),
        decoder_qkv_multiscales=((),) * len(WIDTHS),
        encoder_out_shortcut=True,
        decoder_in_shortcut=False,
    )


@torch.no_grad()
def build_kl() -> AutoencoderKL:
    """A fresh autoencoder of the kind that a StableDiffusionPipeline takes, as wide as that of :func:`build`.

    Its steps up repeat pixels, so that it cannot start as a code's inverse. What it encodes has no noise.
    """
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
        latent_channels=CHANNELS,
        norm_num_groups=16,
        sample_size=SIDE,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    vae.encoder.conv_out.weight[CHANNELS:] = 0  # of the logarithms of variances
    vae.encoder.conv_out.bias[CHANNELS:] = -30
    return vae


@torch.no_grad()
def start_as_inverse(decoder: Decoder, code: LayerCode) -> None:
    """Lets a decoder of :func:`build` draw what a code stands for, by changing its weights.

    Each step up gives the four positions of one their features back. At last objects are drawn, and the background
    where relu(background - opacity) leaves something of it. Residual blocks start as identities.
    """
    for block in decoder.modules():
        if isinstance(block, ResBlock):
            block.norm.weight.zero_()
            block.norm.bias.zero_()
    _pointwise(decoder.conv_in, torch.diag(code.deviations), torch.zeros(CHANNELS))
    ups = [blocks[0].conv for blocks in decoder.up_blocks[-2::-1]]
    for step, up in zip(reversed(range(len(ups))), ups):
        weights, bias = code.components[step].T, code.means[step]  # [4 c, features], [4 c]: the corners are c apart
        if step == 0:
            weights, bias = _composed(weights, bias)
        corners = weights.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)  # as pixel_shuffle takes them
        _pointwise(up, corners, bias.unflatten(0, (4, -1)).T.flatten())
        repeats = up.out_channels // up.in_channels  # the block adds its input, repeated, to what the layer gives
        up.weight[range(up.out_channels), np.arange(up.out_channels) // repeats, 1, 1] -= 1
    decoder.norm_out.weight.fill_(CONSTANT / WIDTHS[0] ** 0.5)
    decoder.norm_out.bias.zero_()
    drawn = torch.cat([torch.eye(3), torch.eye(3)], 1)  # an object, or what is left of the background
    _pointwise(decoder.conv_out, 2 * drawn, torch.full((3,), -1.0))


def _composed(weights: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of layers, as rows of what is drawn: objects, background less opacity, and a constant; corner by corner."""
    turned = torch.zeros(WIDTHS[0], LAYERS)
    turned[range(3), range(3)] = 1
    turned[range(3, 6), range(4, 7)] = 1 / BACKGROUND
    turned[3:6, 3] = -1
    constant = torch.zeros(WIDTHS[0])
    constant[6] = CONSTANT
    rows = torch.einsum("ol,klf->kof", turned, weights.unflatten(0, (4, LAYERS)))
    values = torch.einsum("ol,kl->ko", turned, bias.unflatten(0, (4, LAYERS))) + constant
    return rows.flatten(0, 1), values.flatten()


def _pointwise(layer: torch.nn.Conv2d, weights: torch.Tensor, bias: torch.Tensor) -> None:
    """Lets a convolution do to each position what a matrix ``[out, in]`` does; channels beyond it become zero."""
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: weights.shape[0], : weights.shape[1], 1, 1] = weights
    layer.bias[: len(bias)] = bias


def _side_by_side(features: torch.Tensor) -> torch.Tensor:
    """``[n, c, h, w]`` with 2 x 2 positions as channels of one, corner by corner: ``[n, 4 c, h / 2, w / 2]``."""
    n, c, h, w = features.shape
    return features.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def _project(features: torch.Tensor, mean: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
    return torch.einsum("kc,nchw->nkhw", components, features - mean[:, None, None])
