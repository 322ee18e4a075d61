"""Activations of vision encoders of transformers, for the tokens that are asked for."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, BaseImageProcessor, PreTrainedModel

from cbsae_hub.encoders.families import family_of, prefix_tokens, tower_config
from cbsae_hub.encoders.relevance import attentive, relevancy, share_out
from cbsae_hub.encoders.site import Edit, ResidualSite, find_blocks, read_sites, run_blocks
from cbsae_hub.encoders.view import View, draw_view, framed, measure_view
from cbsae_hub.encoders.weights import load_weights, quiet, require_complete
from cbsae_hub.hub.locate import locate
from cbsae_hub.models import CBSAE, SAE, checks
from cbsae_hub.pictures import require_images, to_rgb

ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit")  # families that fit their positions to the picture


def preprocess(processor: BaseImageProcessor, images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL images of any mode as an image processor makes them, ``[images, 3, h, w]``."""
    return processor(images=[to_rgb(image) for image in images], return_tensors="pt").pixel_values


class VisionEncoder:
    """Activations of one layer of a vision encoder, for the tokens that are asked for.

    Args:
        model: A vision model of transformers of one of the known families.
        processor: Its image processor.
        layer: Block whose output is read, from 0; negative numbers count from the end.
        tokens: "cls", "patches" (CLS and registers excluded), "all", "mean" (of all tokens) or "random:n" (n tokens
            drawn with replacement, CLS and registers included, as in sae-for-vlm's steering SAEs).
        repo_id: Folder or Hub id of the model.
        revision: Its version.

    Raises:
        ValueError: If the family, the layer or the token selection is unknown, the family has no CLS token, or the
            processor does not give all pictures one size, which the model takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        layer: int = -2,
        tokens: str = "patches",
        repo_id: str | None = None,
        revision: str | None = None,
    ):
        self.model: Any = model.eval().requires_grad_(False)  # each family has its own class
        self.processor = processor
        self.family = family_of(model.config)
        if hasattr(model.config, "vision_config"):
            raise ValueError(
                f"{type(model).__name__} is more than a vision tower: VisionEncoder.from_pretrained loads the tower "
                "from its folder or Hub id"
            )
        self.site = ResidualSite.find(model, layer)
        self.layer = self.site.layer
        self.num_layers = len(find_blocks(model)[0])
        self.repo_id, self.revision = repo_id, revision
        config = model.config
        self.d_in: int = config.hidden_size
        height, width = self._find_size()
        self.grid: tuple[int, int] = (height // config.patch_size, width // config.patch_size)
        self._prefix = prefix_tokens(config)
        self.tokens = self._check_tokens(tokens)
        self._span = {"cls": slice(0, 1), "patches": slice(self._prefix, None)}.get(tokens, slice(None))
        self._views: dict[tuple[int, int], View] = {}

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        layer: int = -2,
        tokens: str = "patches",
        revision: str | None = None,
        device: str | torch.device = "cpu",
        beside: str | Path | None = None,
    ) -> "VisionEncoder":
        """Loads an encoder from a folder or the Hub: safetensors only, no remote code, the PIL image processor.

        Of DINOv3 there is only torchvision's processor, which is taken then.

        Args:
            repo_id: Folder or Hub id.
            layer: See the class.
            tokens: See the class.
            revision: See :func:`cbsae_hub.hub.locate.locate`.
            device: Device of the model.
            beside: A model folder next to which the encoder may lie, see :func:`cbsae_hub.models.resolve_id`.

        Raises:
            ValueError: See the class; or the weights are not those that ``revision`` names, or some are missing or do
                not fit the config, or it is no model of transformers.
            OSError: If there is no such model, or it has no safetensors weights.
        """
        located = locate(repo_id, revision, beside)
        local, pretrained = located.folder is not None, located.pretrained
        try:
            config = AutoConfig.from_pretrained(**pretrained)
        except OSError as error:
            where = "" if local else ": it is no folder here"
            raise OSError(
                f"the encoder {repo_id} could not be loaded{where}. Check the id, log in with `hf auth login`, or give "
                f"the path of a downloaded copy ({error})"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{repo_id} has no config.json of a model that transformers knows. Weights of OpenCLIP alone "
                "(open_clip_config.json, as BioCLIP has) are not read here: convert them to a CLIPModel of "
                f"transformers, or find somebody's conversion, and give its folder or id ({error})"
            ) from error
        family, name, tower = family_of(config), located.id, tower_config(config)
        model, missing = load_weights(family.model, name, **pretrained, config=tower, **family.options)
        if missing and family.are_of_head(missing):
            tower.update(family.bare_config)
            model, missing = load_weights(family.bare, name, **pretrained, config=tower)
        require_complete(family.model, missing, name)
        with quiet():
            # The default backend differs by what is installed; PIL gives everybody the same pixels.
            processor = AutoImageProcessor.from_pretrained(**pretrained, backend="pil")
        commit = None if local else getattr(config, "_commit_hash", None)
        return cls(model.to(device), processor, layer, tokens, name, commit or located.revision)

    def at(self, layer: int, tokens: str) -> "VisionEncoder":
        """The same model, read at another layer or for other tokens; see the class for what is wrong."""
        return VisionEncoder(self.model, self.processor, layer, tokens, self.repo_id, self.revision)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the model itself makes of an image, whichever of them are read."""
        return self._prefix + self.grid[0] * self.grid[1]

    @property
    def tokens_per_image(self) -> int:
        """Number of rows that an image gives."""
        if self.tokens.startswith("random:"):
            return int(self.tokens.removeprefix("random:"))
        every = self.num_tokens
        return {"cls": 1, "mean": 1, "all": every, "patches": every - self._prefix}[self.tokens]

    @property
    def patch_rows(self) -> slice | None:
        """The rows of an image that are patches, in the grid's order; None for tokens without a place in it."""
        return {"patches": slice(0, None), "all": slice(self._prefix, None)}.get(self.tokens)

    def view(self, image: Image.Image) -> View:
        """The part of a picture that lies under the grid of patches, after the processor has resized and cropped it.

        Args:
            image: PIL image of any mode.
        """
        size = to_rgb(image).size
        if size not in self._views:
            config, (rows, columns) = self.model.config, self.grid
            under_grid = rows * config.patch_size, columns * config.patch_size
            self._views[size] = measure_view(lambda images: preprocess(self.processor, images), size, under_grid)
        return self._views[size]

    def show(self, image: Image.Image, side: int) -> Image.Image:
        """A picture as the encoder sees it, RGB, so that maps of patches lie where the patches are.

        It has the shape of the grid: margins that the processor cuts off are missing, and what it squashes is squashed.

        Args:
            image: PIL image of any mode.
            side: Pixels of the longer side, at most; pictures are not enlarged.
        """
        return draw_view(to_rgb(image), self.view(image), self.grid, side)

    def framed(self, image: Image.Image) -> Image.Image:
        """A picture that :meth:`show` has made, so that the encoder sees the same again, and not the inner part of it.

        Args:
            image: RGB image in the shape of the grid.
        """
        return framed(image, self.view(image))

    def provenance(self) -> dict[str, Any]:
        """Description of the activations, for the config of an SAE that is trained on them."""
        keys = ("size", "crop_size", "resample", "image_mean", "image_std", "do_center_crop")
        settings = self.processor.to_dict()
        preprocessing = {key: _plain(settings[key]) for key in keys if settings.get(key) is not None}
        return {
            "encoder_id": self.repo_id,
            "encoder_revision": self.revision,
            "layer": self.layer,
            "tokens": self.tokens,
            "preprocessing": {"processor": settings["image_processor_type"], **preprocessing},
        }

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocessed images, ``[images, 3, h, w]``, on the model's device; any PIL mode is accepted.

        Raises:
            ValueError: If there are no images, or they are not a list of PIL images.
        """
        require_images(images)
        return preprocess(self.processor, images).to(self.device)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Image.Image] | torch.Tensor, seeds: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Activations of the chosen tokens.

        Args:
            images: PIL images, or what :meth:`pixel_values` made of them; one batch.
            seeds: With "random:n", a seed per image; default its place in the batch. Which tokens are drawn of an
                image depends on its seed alone, not on the batch it comes in.

        Returns:
            ``[images, tokens, d_in]`` float32.

        Raises:
            ValueError: If the pixel values are not of the size that :meth:`pixel_values` gives.
        """
        return read_together([self], images, seeds)[0]

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image] | torch.Tensor) -> torch.Tensor:
        """The model's pooled image embedding, unit norm: ``[images, d]`` (CLIP: after the projection).

        Raises:
            ValueError: If the model has none, see :meth:`require_embedding`.
        """
        self.require_embedding()
        return F.normalize(self.family.pooled(self.model(self._pixels(images))).float(), dim=-1)

    @torch.no_grad()
    def embed_from(self, v: torch.Tensor) -> torch.Tensor:
        """:meth:`embed` from all tokens' activations ``[images, all tokens, d_in]``: only the later blocks run.

        Raises:
            ValueError: If the model has no embedding; or the family has rotary positions, and these are not the tokens
                of such pictures.
        """
        self.require_embedding()
        v = v.to(self.device, next(self.model.parameters()).dtype)
        v = run_blocks(self.model, v, self.layer + 1, grid=self.grid)
        return F.normalize(self.family.pool(self.model, v).float(), dim=-1)

    def require_embedding(self) -> None:
        """Raises ValueError if the model lacks what makes an embedding of its tokens: a CLIP its projection, say."""
        if not self.family.has_head(self.model):
            raise ValueError(
                f"{self.repo_id or 'this encoder'} has no image embedding: its {type(self.model).__name__} has no "
                f"{self.family.head}. Its activations need none; for embeddings take the whole model"
            )

    def relevance(
        self, images: Sequence[Image.Image] | torch.Tensor, sae: SAE | CBSAE, neuron: int, batch_size: int = 16
    ) -> torch.Tensor:
        """The patches to which a neuron owes its activation, see :mod:`cbsae_hub.encoders.relevance`.

        A neuron of the CLS token has such a map too; with "random:n" the latents of all tokens are explained.

        Args:
            images: PIL images, or what :meth:`pixel_values` made of them.
            sae: A model that explains this layer.
            neuron: The neuron.
            batch_size: Images at once; each needs the attention of all blocks, and its gradient.

        Returns:
            ``[images, rows, columns]`` float32 on the encoder's device; 0 or more, all 0 where it is not active.

        Raises:
            ValueError: If there is no such neuron.
        """
        checks.integer("neuron", neuron, 0, sae.d_latent - 1)
        weigh = share_out(sae, neuron, None if self.tokens == "mean" else self._span)
        parts = self._pixels(images).split(batch_size)
        tokens = torch.cat([relevancy(self._attentive, self.layer, pixels, weigh) for pixels in parts])
        return tokens[:, self._prefix :].unflatten(1, self.grid)

    @cached_property
    def _attentive(self) -> Any:
        options = self.family.options if type(self.model).__name__ == self.family.model else {}
        return attentive(self.model, **options)

    def select(self, v: torch.Tensor, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Picks the chosen tokens: ``[images, all tokens, d_in] -> [images, tokens, d_in]``."""
        if self.tokens == "mean":
            return v.mean(1, keepdim=True)
        if not self.tokens.startswith("random:"):
            return v[:, self._span]
        draws = [
            torch.randint(v.shape[1], (self.tokens_per_image,), generator=torch.Generator().manual_seed(int(seed)))
            for seed in (range(len(v)) if seeds is None else seeds)
        ]
        return v.gather(1, torch.stack(draws).to(v.device)[..., None].expand(-1, -1, v.shape[-1]))

    def on_tokens(self, fn: Edit) -> Edit:
        """An edit for ``site.edit`` that changes the chosen tokens alone; with "random:n", which may be any, all.

        Raises:
            ValueError: If the tokens are "mean": that is no place in the model.
        """
        if self.tokens == "mean":
            raise ValueError("the mean over tokens is read from the model; it cannot be put back")

        def edit(v: torch.Tensor) -> torch.Tensor:
            edited = v.clone()
            edited[:, self._span] = fn(v[:, self._span]).to(v.dtype)
            return edited

        return edit

    def _pixels(self, images: Sequence[Image.Image] | torch.Tensor) -> torch.Tensor:
        pixels = images if isinstance(images, torch.Tensor) else self.pixel_values(images)
        return pixels.to(self.device, next(self.model.parameters()).dtype)

    def _find_size(self) -> tuple[int, int]:
        """Height and width of every picture that the model gets to see.

        The processor decides: DINOv2's config says 518 pixels, its processor crops to 224.

        Raises:
            ValueError: If they depend on the picture, or the model does not take them; says what to set.
        """
        config, name = self.model.config, type(self.processor).__name__
        shapes = [(n * config.patch_size, m * config.patch_size) for n, m in ((1, 1), (3, 1), (1, 3))]
        sizes = {self.pixel_values([Image.new("RGB", shape)]).shape[-2:] for shape in shapes}
        if len(sizes) > 1:
            settings = self.processor.to_dict()
            sizing = ", ".join(f"{key}={_plain(settings.get(key))}" for key in ("do_resize", "size", "do_center_crop"))
            raise ValueError(
                f"{name} ({sizing}) keeps the shape of pictures, so that they would have different numbers of patches: "
                "set do_center_crop to true with a crop_size, or give size a height and a width, in a copy of its "
                "preprocessor_config.json"
            )
        height, width = sizes.pop()
        takes = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
        if config.model_type not in ANY_SIZE and (height, width) != tuple(takes):
            raise ValueError(
                f"{name} makes pictures of {height} x {width} pixels (height x width), {type(self.model).__name__} "
                f"takes {takes[0]} x {takes[1]}: set crop_size or size in a copy of its preprocessor_config.json"
            )
        return height, width

    def _check_tokens(self, tokens: str) -> str:
        if tokens is None:
            raise ValueError("the encoder has to be told which tokens: cls, patches, all, mean or random:n")
        checks.tokens("tokens", tokens)
        if tokens == "cls" and not self.family.cls_token:
            raise ValueError(f"{type(self.model).__name__} has no CLS token; take patches, all, mean or random:n")
        return tokens


@torch.no_grad()
def read_together(
    encoders: Sequence[VisionEncoder],
    images: Sequence[Image.Image] | torch.Tensor,
    seeds: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """Activations of several layers and tokens from one run of the model.

    Args:
        encoders: One or more of the same model, see :meth:`VisionEncoder.at`.
        images: See :meth:`VisionEncoder.__call__`.
        seeds: Likewise.

    Returns:
        For each encoder what it gives by itself, ``[images, tokens, d_in]`` float32.

    Raises:
        ValueError: If they are of several models, or the pixel values are not of the right size.
    """
    first = encoders[0]
    if any(one.model is not first.model for one in encoders):
        raise ValueError("only layers of one model are read together: make the encoders by VisionEncoder.at")
    pixels = first._pixels(images)
    parts = []
    for one, activations in zip(encoders, read_sites([one.site for one in encoders], lambda: first.model(pixels))):
        v = activations.float()
        if v.shape[1] != one.num_tokens:
            height, width = pixels.shape[-2:]
            raise ValueError(
                f"pictures of {height} x {width} pixels have {v.shape[1]} tokens; those that the encoder's processor "
                f"makes, of its own grid of {one.grid[0]} x {one.grid[1]} patches have {one.num_tokens}"
            )
        parts.append(one.select(v, seeds))
    return parts


def _plain(value: Any) -> Any:
    """Processor settings as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
