"""Embeddings as steering makes them, each with the picture that is right for it.

Steering pushes the patches at a block of the encoder far along one direction, where no scene's patches lie: a UNet that
has seen embeddings of scenes alone draws nothing that anyone recognises from what follows. So it sees these too: the
patches are pushed towards a concept, and the target is the canonical picture of that concept. The directions are those
in which patches that show a concept differ from others. They need no SAE, so that the pipeline can be trained before
any SAE is, and serves each. Some pushes have no length: what is drawn then is the empty background.
"""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPVisionModelWithProjection

from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.pretrain_clip import patch_targets
from training.emoji_world.render import NO_OBJECT, SceneRenderer, SceneSpec

BATCH = 256
BATCHES = 16  # of scenes with one object, from which directions are learned: some ten a concept
ALONE = 0.5  # share of pushes where the push replaces the picture, as of an isolated neuron
STRENGTHS = (1.0, 4.0)  # in median lengths of a patch
ASKEW = 1.0  # length of the noise on a unit direction at most: a neuron's is not quite the concept's
EMPTY = 0.15  # share of pushes of no length
ON_WHITE = 0.3  # share of the others that are on white, as those of a steered white picture
WHITE = BACKGROUNDS.index("white")


class Pushes:
    """Pushes patches of empty scenes towards concepts, in front of the encoder's last layer.

    Args:
        encoder: The image encoder.
        renderer: Its scenes give the patches of a concept, and its backgrounds are pushed.

    Attributes:
        mean: The mean patch, ``[d]``.
        length: The median length of patches.
        directions: Unit vectors ``[concepts, d]``.
    """

    def __init__(self, encoder: CLIPVisionModelWithProjection, renderer: SceneRenderer):
        self.encoder, self.renderer = encoder, renderer
        concepts = len(renderer.atlas.concepts)
        sums, counts, means, lengths = 0, 0, [], []
        for index in range(BATCHES):
            scenes = renderer.batch(index, BATCH, SceneSpec(objects=(1,)))
            patches = self._states(scenes.pixels.float() / 127.5 - 1)[:, 1:]
            which, shares = patch_targets(scenes, concepts, np.random.default_rng([renderer.seed, index, 8]))
            read = patches.gather(1, which.to(patches.device)[..., None].expand(-1, -1, patches.shape[-1]))
            shares = shares[..., :concepts].to(patches.device)
            sums = sums + torch.einsum("npc,npd->cd", shares, read)
            counts = counts + shares.sum((0, 1))
            means.append(patches.mean((0, 1)))
            lengths.append(patches.norm(dim=-1).median())
        if (counts == 0).any():
            raise ValueError(f"{int((counts == 0).sum())} concepts were on none of {BATCHES * BATCH} scenes")
        self.mean, self.length = torch.stack(means).mean(0), torch.stack(lengths).mean()
        self.directions = F.normalize(sums / counts[:, None] - self.mean, dim=-1)

    @torch.no_grad()
    def draw(self, index: int, n: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """The ``index``-th batch of pushes.

        Returns:
            Embeddings ``[n, d_projection]`` on the CPU; the concepts ``[n, 3]`` and backgrounds ``[n]`` of the pictures
            that shall be drawn from them.
        """
        rng = np.random.default_rng([self.renderer.seed, index, 9])
        concepts = np.full((n, 3), NO_OBJECT)
        towards = rng.integers(len(self.directions), size=n)
        empty = rng.random(n) < EMPTY
        concepts[:, 0] = np.where(empty, NO_OBJECT, towards)
        alone = ~empty & (rng.random(n) < ALONE)
        white = alone | (rng.random(n) < ON_WHITE)
        backgrounds = np.where(white, WHITE, rng.integers(len(BACKGROUNDS), size=n))
        states = self._states(self.renderer.bank.crop(backgrounds, rng) * 2 - 1)
        states[torch.from_numpy(alone).to(states.device)] = self.mean
        strength, noise, askew = (
            torch.from_numpy(values).float().to(states.device)
            for values in (
                np.where(empty, 0.0, rng.uniform(*STRENGTHS, n))[:, None],
                rng.normal(size=(n, states.shape[-1])),
                rng.uniform(0, ASKEW, (n, 1)),
            )
        )
        direction = F.normalize(self.directions[towards] + F.normalize(noise, dim=-1) * askew, dim=-1)
        push = strength * self.length * direction
        tower = self.encoder.vision_model
        last = tower.encoder.layers[-1](states + push[:, None], attention_mask=None)
        embeddings = self.encoder.visual_projection(tower.post_layernorm(last[:, 0])).float()
        return embeddings.cpu(), concepts, backgrounds

    @torch.no_grad()
    def _states(self, pixels: torch.Tensor) -> torch.Tensor:
        """The inputs of the encoder's last layer, ``[n, tokens, d]``, for pixels in -1..1."""
        output = self.encoder(pixel_values=pixels.to(self.encoder.device), output_hidden_states=True)
        return output.hidden_states[-2].float()
