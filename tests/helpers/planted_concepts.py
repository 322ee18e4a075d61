"""A linear world of known concepts, an SAE whose neurons are these concepts, and pairs of images that differ in one."""

import torch
import torch.nn.functional as F

from cbsae_hub.models import SAE

D, CONCEPTS, SPARE = 24, 12, 8


class Planted:
    """Activations are sums of the directions of the concepts that an image shows, off the origin.

    Attributes:
        x, labels: Images ``[n, d]`` and their concepts ``[n, concepts]`` bool.
        before, after, changes: Pairs in which one concept comes or goes, in turns.
        sae: Neuron ``order[c]`` is active where concept c is, and writes its direction; the others know nothing.
    """

    def __init__(self, images: int = 600, pairs: int = 240, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.directions = F.normalize(torch.randn(CONCEPTS, D, generator=generator), dim=1)
        self.origin = torch.randn(D, generator=generator)
        self.labels = torch.rand(images, CONCEPTS, generator=generator) < 0.15
        self.x = self.activations(self.labels)
        first = torch.rand(pairs, CONCEPTS, generator=generator) < 0.15
        changed = torch.arange(pairs) % CONCEPTS
        first[torch.arange(pairs), changed] = torch.arange(pairs) // CONCEPTS % 2 == 1
        second = first.clone()
        second[torch.arange(pairs), changed] ^= True
        self.before, self.after = self.activations(first), self.activations(second)
        self.changes = second.long() - first.long()
        self.order = torch.randperm(CONCEPTS + SPARE, generator=generator)[:CONCEPTS]
        self.sae = SAE(D, CONCEPTS + SPARE, "relu", seed=seed + 1).eval()
        with torch.no_grad():
            self.sae.b_dec.copy_(self.origin)
            self.sae.W_enc[:, self.order] = torch.linalg.pinv(self.directions)
            self.sae.b_enc[self.order] = -0.5
            self.sae.W_dec[self.order] = self.directions

    def activations(self, labels: torch.Tensor) -> torch.Tensor:
        return self.origin + labels.float() @ self.directions

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.encode(x).detach()
