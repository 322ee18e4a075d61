"""The neurons on whose part in an image CLIP's answer depends most: they are taken out, one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsae_hub.encoders.site import run_blocks
from cbsae_hub.steering.clip import ClipZeroShotSteerer
from cbsae_hub.steering.latents import decoder_rows, read_latents, weight_dtype

TRIED = 64
"""Neurons that are really taken out of an image, where more of them fire: those that a gradient points to."""


@dataclass(frozen=True)
class Removals:
    """CLIP's answers about one image without one neuron at a time.

    Attributes:
        word: Place in the vocabulary of the image's most probable word.
        before: P of the image as it is, ``[vocabulary]``.
        neurons: Numbers ``[neurons]`` int64, those first whose removal lowers that word's probability most.
        after: P without each of them, ``[neurons, vocabulary]``.
    """

    word: int
    before: Tensor
    neurons: Tensor
    after: Tensor


@torch.no_grad()
def remove_each(
    steerer: ClipZeroShotSteerer, v: Tensor, neurons: Sequence[int], tokens: slice, tried: int = TRIED, batch: int = 16
) -> Removals:
    """Takes single neurons out of one image, with the SAE's error kept, and has CLIP answer without each.

    The tokens of the SAE become ``x - z_j d_j``. Of more neurons than ``tried``, those are taken by which the logarithm
    of the word's probability would fall most if it were linear in the activations: one backward pass instead of a
    forward pass for each.

    Args:
        steerer: The CLIP with its SAE.
        v: Activations of the image at the SAE's block, ``[tokens, d]``, all tokens.
        neurons: Numbers of the neurons, for instance of all that fire.
        tokens: The tokens that the SAE works on, see :func:`cbsae_hub.steering.suppression.edited_tokens`.
        tried: Largest number of neurons that are taken out.
        batch: Images at once.

    Raises:
        ValueError: If there are no neurons.
    """
    if not len(neurons):
        raise ValueError("no neuron fires on the image: there is nothing to take out")
    ids = torch.as_tensor(neurons, dtype=torch.long)
    before = steerer.distribution(steerer.embed(v[None]))[0]
    word = int(before.argmax())
    sae = steerer.tower.sae
    latents = read_latents(sae, v[tokens].to(weight_dtype(sae)))
    if len(ids) > tried:
        along = _gradient(steerer, v, word)[tokens] @ decoder_rows(sae, ids.tolist()).to(v.dtype).T
        change = -(latents.columns(ids.tolist()).to(v.dtype) * along).sum(0)  # of the logarithm, to first order
        ids = ids[change.cpu().argsort(stable=True)[:tried]]
    after = []
    for chunk in ids.split(batch):
        edited = v.repeat(len(chunk), 1, 1)
        edited[:, tokens] += latents.pushes(chunk.tolist(), v.new_zeros(len(chunk)), isolate=False).to(v.dtype)
        after.append(steerer.distribution(steerer.embed(edited)))
    answers = torch.cat(after)
    order = answers[:, word].argsort(stable=True)
    return Removals(word, before, ids[order.cpu()], answers[order])


def _gradient(steerer: ClipZeroShotSteerer, v: Tensor, word: int) -> Tensor:
    """The gradient of the logarithm of a word's probability by the activations, ``[tokens, d]``."""
    with torch.enable_grad():
        x = v.detach().clone().requires_grad_()
        stream = run_blocks(steerer.model, x[None], steerer.tower.layer + 1)
        logits = steerer.logit_scale * steerer.embed_stream(stream) @ steerer.texts.T
        return torch.autograd.grad(logits.log_softmax(-1)[0, word], x)[0]
