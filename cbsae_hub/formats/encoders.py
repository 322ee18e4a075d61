"""Encoder, block and tokens of somebody else's SAE, as configs and names of folders say it."""

import re
from dataclasses import dataclass, field
from typing import Any

from cbsae_hub.hub.stamp import REPO_ID

# Names under which other projects load encoders, and where transformers finds them.
TRANSFORMERS_ID = {
    "ViT-B-32/openai": "openai/clip-vit-base-patch32",
    "ViT-B-16/openai": "openai/clip-vit-base-patch16",
    "ViT-L-14/openai": "openai/clip-vit-large-patch14",
    "ViT-L-14-336/openai": "openai/clip-vit-large-patch14-336",
    "dino_vits16": "facebook/dino-vits16",
    "dino_vitb16": "facebook/dino-vitb16",
    "dino_vits8": "facebook/dino-vits8",
    "dino_vitb8": "facebook/dino-vitb8",
    "dinov2_vits14": "facebook/dinov2-small",
    "dinov2_vitb14": "facebook/dinov2-base",
    "dinov2_vitl14": "facebook/dinov2-large",
    "dinov2_vits14_reg": "facebook/dinov2-with-registers-small",
    "dinov2_vitb14_reg": "facebook/dinov2-with-registers-base",
    "dinov2_vitl14_reg": "facebook/dinov2-with-registers-large",
    "dinov3_vits16": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3_vitb16": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3_vitl16": "facebook/dinov3-vitl16-pretrain-lvd1689m",
}
OWNER_OF = {
    "clip-vit-": "openai",
    "siglip-": "google",
    "dino-vit": "facebook",
    "dinov2-": "facebook",
    "dinov3-": "facebook",
}
PREFIXES = ("open-clip:", "hf-hub:", "hf_hub:")

# saev's files do not say whose activations they are of, its repositories' names do.
_SAEV = {
    "SAE_CLIP_24K_ViT-B-16_IN1K": ("openai/clip-vit-base-patch16", 10),
    "SAE_BioCLIP_24K_ViT-B-16_iNat21": ("imageomics/bioclip", 10),
    "SAE_DINOv2_24K_ViT-B-14_IN1K": ("facebook/dinov2-with-registers-base", 10),
    "SAE_DINOv3_ViT-S-16_IN1K": ("facebook/dinov3-vits16-pretrain-lvd1689m", None),
    "SAE_DINOv3_ViT-B-16_IN1K": ("facebook/dinov3-vitb16-pretrain-lvd1689m", None),
    "SAE_DINOv3_ViT-L-16_IN1K": ("facebook/dinov3-vitl16-pretrain-lvd1689m", None),
    "SAE_DINOv3_TopK_ViT-L-16_IN1K": ("facebook/dinov3-vitl16-pretrain-lvd1689m", None),
}
_SAEV_LAYER = re.compile(r"layer_(\d{1,3})")

# <dataset>_<split>_activations_<model>_<layer>_<point>_<sae>_<k>_x<expansion>, a folder of sae-for-vlm
_VLM = re.compile(
    r"(?P<dataset>.+)_(?P<split>train|val|test)_activations_(?P<model>.+?)_(?P<layer>-?\d{1,3})"
    r"_(?P<point>(?:pre|post|in)_[a-z]+(?:_residual)?)_(?P<sae>[a-z_]+)_(?P<k>\d+)_x(?P<expansion>[\d.]+)"
)
_VLM_RANDOM = re.compile(r"random_k_(\d+)")
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers?|resblocks|h)\.(\d{1,3})(?:\.(.+))?$")


@dataclass
class Explained:
    """The activations that an SAE explains; an entry is None where it is not known."""

    encoder_id: str | None = None
    layer: int | None = None
    tokens: str | None = None
    notes: list[str] = field(default_factory=list)


def transformers_id(model: str | None) -> str | None:
    """Hub id for transformers of an encoder that another project calls ``model``; None if it is not known."""
    if not isinstance(model, str):
        return None
    for prefix in PREFIXES:
        model = model.removeprefix(prefix)
    if model in TRANSFORMERS_ID:
        return TRANSFORMERS_ID[model]
    if REPO_ID.fullmatch(model):
        return model
    return next((f"{owner}/{model}" for start, owner in OWNER_OF.items() if model.startswith(start)), None)


def at_hook(model: str | None, hook: str | None, tokens: str | None = None) -> Explained:
    """Reads the name of a hook of TransformerLens or Prisma, or of a module of transformers.

    ``blocks.9.hook_resid_post`` and ``vision_model.encoder.layers.9`` are the output of block 9,
    ``blocks.9.hook_resid_pre`` that of block 8. What lies inside a block has no place here.
    """
    explained = Explained(transformers_id(model), None, tokens)
    if model is not None and explained.encoder_id is None:
        explained.notes.append(
            f"the encoder is called {model!r:.100}, which is no id of transformers that is known here"
        )
    match = _BLOCK.search(hook) if isinstance(hook, str) else None
    if match is None:
        if hook is not None:
            explained.notes.append(f"the hook {hook!r:.100} names no block that is known here")
        return explained
    block, place = int(match[1]), match[2]
    if place in (None, "hook_resid_post", "output"):
        explained.layer = block
    elif place == "hook_resid_pre" and block > 0:
        explained.layer = block - 1
    else:
        explained.notes.append(f"it is of {hook!r:.100}: inside a block, where only blocks' outputs can be read here")
    return explained


def tokens_of(config: dict[str, Any], default: Any) -> Any:
    """The tokens that a config of SAELens or Prisma speaks of."""
    return "cls" if config.get("cls_token_only") else "patches" if config.get("use_patches_only") else default


def of_saev(words: list[str]) -> Explained:
    """Reads the names of saev's repositories; its SAEs are of patches."""
    repository = next((name for word in words for name in _SAEV if word == name), None)
    if repository is None:
        return Explained()
    encoder_id, layer = _SAEV[repository]
    layers = [int(match[1]) for word in words if (match := _SAEV_LAYER.fullmatch(word))]
    notes = [f"encoder, layer and tokens are those of {repository}, as the file does not name them"]
    if encoder_id == "imageomics/bioclip":
        notes.append("imageomics/bioclip holds weights of OpenCLIP: transformers needs them converted")
    return Explained(encoder_id, layers[-1] if layers else layer, "patches", notes)


def of_sae_for_vlm(words: list[str]) -> tuple[Explained, str | None]:
    """Reads the folders' names of sae-for-vlm, the kind of SAE among them; nothing if it is not such a path."""
    match = next((match for word in reversed(words) if (match := _VLM.fullmatch(word))), None)
    if match is None:
        return Explained(), None
    explained = Explained(transformers_id(match["model"]))
    if explained.encoder_id is None:
        explained.notes.append(f"the encoder is called {match['model']!r:.100}, whose id is not known here")
    if match["point"] == "post_mlp_residual" and int(match["layer"]) >= 0:
        explained.layer = int(match["layer"])
    else:
        explained.notes.append(
            f"it is of {match['point']}, layer {match['layer']}: only blocks' outputs can be read here"
        )
    count = next((draw[1] for word in words if (draw := _VLM_RANDOM.fullmatch(word))), None)
    explained.tokens = f"random:{count}" if count else "mean" if "mean_pool" in words else "cls"
    if explained.tokens == "cls":
        explained.notes.append(
            "no folder is called random_k_...: taken to be of CLS tokens, as that project's scripts do"
        )
    return explained, match["sae"]
