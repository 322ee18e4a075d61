"""SAEs at every layer of a CLIP: how sparse they are at each place in the image, and what they keep.

After "Steering CLIP's vision transformer with sparse autoencoders" (Joseph et al., 2025), section 5, tables 3 and 4.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.encoders.explained import whole_image
from cbsae_hub.encoders.site import Edit
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.formats.load import require_encoder
from cbsae_hub.hub.files import is_content
from cbsae_hub.metrics import DownstreamCost, Reconstruction
from cbsae_hub.models import CBSAE, SAE

BOX = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles over images of the number of active latents, of which box plots are drawn."""


class LayerProbe:
    """The images on which all SAEs of one layer are measured.

    Args:
        encoder: The CLIP at this layer, with all its tokens.
        store: Activations of all tokens of the images there.
        targets: The class of each image, -1 for one that does not count, ``[images]``.
        head: Classifies embeddings.

    Raises:
        ValueError: If the encoder makes no embeddings, or no image has a class.
    """

    def __init__(self, encoder: VisionEncoder, store: ActivationStore, targets: Tensor, head: ZeroShotHead):
        encoder.require_embedding()
        if not (targets >= 0).any():
            raise ValueError("none of the probe images has one class alone: name another column, or take more images")
        self.encoder, self.store, self.targets, self.head = encoder, store, targets, head
        self._plain: dict[str, dict[str, Tensor]] = {}  # logits without the SAE, by its tokens

    @torch.no_grad()
    def measure(self, sae: SAE | CBSAE, batch_size: int = 64) -> dict[str, Any]:
        """The figures of an SAE by its inference rule, on all images.

        Args:
            sae: An SAE of this encoder and layer.
            batch_size: Images at once.

        Returns:
            ``l0_patch`` and ``l0_cls``, mean active latents (NaN where the SAE has no such tokens), ``l0_image``, their
            sum over the SAE's tokens of an image; ``explained_variance`` and ``cosine`` over these tokens;
            ``dead_share``, that of neurons that no image activates; the figures of :class:`DownstreamCost`, with
            CLIP's logit scale, and with the prefix ``unscaled_`` without it, as the paper has them. For figures:
            ``l0_by_token``, quantiles :data:`BOX` and the mean over images ``[tokens, 6]``; ``prefix``, how many of
            these tokens come before the patches; and ``grid``, rows and columns of the patches.

        Raises:
            ValueError: If the SAE is of another layer, another encoder or of tokens that cannot be put back.
        """
        require_sae_of(sae, self.encoder)
        own = self.encoder.at(self.encoder.layer, whole_image(sae.tokens))
        plain = self._without(own, batch_size)
        reconstruction, fired = Reconstruction(sae.d_in), torch.zeros(sae.d_latent, dtype=torch.bool)
        counts, logits = [], []
        for ids, v in self.store.of_images(range(self.store.num_images), batch_size):
            v = v.to(self.encoder.device)
            x = own.select(v)
            latents = sae.encode_sparse(x)
            decoded, active = sae.decode_sparse(*latents, like=x), sae.only_active(latents)
            on = active.values != 0
            counts.append(on.sum(-1).cpu())
            reconstruction.update(x.flatten(0, 1).cpu(), decoded.flatten(0, 1).cpu(), counts[-1].flatten())
            fired[active.indices[on].cpu()] = True
            classified = self.targets[list(ids)] >= 0
            logits.append(self._logits(own.on_tokens(_replacing(decoded[classified]))(v[classified])))
        return {
            **self._l0(torch.cat(counts).float(), own.tokens),
            **{name: value for name, value in reconstruction.compute().items() if name != "l0"},
            "dead_share": (~fired).double().mean().item(),
            **self._costs({**plain, "reconstructed": torch.cat(logits)}),
        }

    def _logits(self, v: Tensor) -> Tensor:
        return self.head(self.encoder.embed_from(v)).cpu() if len(v) else torch.zeros(0, len(self.head.classes))

    def _without(self, own: VisionEncoder, batch_size: int) -> dict[str, Tensor]:
        """Logits with the activations as they are, and with zeros in the place of the tokens."""
        if own.tokens not in self._plain:
            zeroed = own.on_tokens(torch.zeros_like)
            rows = (self.targets >= 0).nonzero()[:, 0].tolist()
            parts = [
                (self._logits(v), self._logits(zeroed(v)))
                for v in (v.to(self.encoder.device) for _, v in self.store.of_images(rows, batch_size))
            ]
            self._plain[own.tokens] = dict(zip(("original", "zeroed"), map(torch.cat, zip(*parts))))
        return self._plain[own.tokens]

    def _l0(self, by_token: Tensor, tokens: str) -> dict[str, Any]:
        """Figures of the number of active latents ``[images, tokens]``."""
        grid = self.encoder.grid
        prefix = 0 if tokens == "patches" else self.encoder.num_tokens - grid[0] * grid[1]
        patches, cls = by_token[:, prefix:], by_token[:, : min(1, prefix)]
        boxes = torch.cat([by_token.quantile(torch.tensor(BOX), 0), by_token.mean(0, keepdim=True)]).T
        return {
            "l0_patch": patches.mean().item(),  # NaN of nothing
            "l0_cls": cls.mean().item(),
            "l0_image": by_token.sum(1).mean().item(),
            "l0_by_token": boxes.tolist(),
            "prefix": prefix,
            "grid": list(grid),
        }

    def _costs(self, logits: Mapping[str, Tensor]) -> dict[str, float]:
        """Cross-entropy and accuracy, with the logit scale and without."""
        targets = self.targets[self.targets >= 0]
        scaled, unscaled = DownstreamCost(), DownstreamCost()
        scaled.update(targets, **logits)
        unscaled.update(targets, **{name: part / self.head.logit_scale for name, part in logits.items()})
        entropies = {name: value for name, value in unscaled.compute().items() if name.startswith("cross_entropy")}
        return {**scaled.compute(), **{f"unscaled_{name}": value for name, value in entropies.items()}}


def require_sae_of(sae: SAE | CBSAE, encoder: VisionEncoder) -> None:
    """Checks that an SAE explains a layer of an encoder.

    Raises:
        ValueError: If it is of another encoder or layer, or does not say of which.
    """
    require_encoder(sae)
    name, revisions = f"the SAE of {sae.encoder_id}, layer {sae.layer}", (sae.encoder_revision, encoder.revision)
    if sae.d_in != encoder.d_in:
        raise ValueError(f"{name}, explains activations of width {sae.d_in}, those here have {encoder.d_in}")
    if Path(str(sae.encoder_id)).name != Path(str(encoder.repo_id)).name:
        raise ValueError(f"{name}, is of another encoder than {encoder.repo_id}, which is measured here")
    if all(map(is_content, revisions)) and revisions[0] != revisions[1]:
        raise ValueError(f"{name}, is of the encoder's weights {revisions[0]}, and those here are {revisions[1]}")
    if sae.layer != encoder.layer:
        raise ValueError(f"{name}, is of another layer than the {encoder.layer} that is measured here")


def _replacing(decoded: Tensor) -> Edit:
    return lambda v: decoded.to(v.dtype)
