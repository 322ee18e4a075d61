"""Encoders of images and texts, and image-text models: their activations, what edits them, and their embeddings."""

from typing import TYPE_CHECKING

from cbsae_hub.lazy import on_first_use

if TYPE_CHECKING:  # for editors and type checkers, which run no __getattr__
    from cbsae_hub.encoders.clip_like import ClipLike as ClipLike
    from cbsae_hub.encoders.explained import explained_encoder as explained_encoder
    from cbsae_hub.encoders.explained import explained_tower as explained_tower
    from cbsae_hub.encoders.image_tokens import ImageTokenEncoder as ImageTokenEncoder
    from cbsae_hub.encoders.language import LanguageEncoder as LanguageEncoder
    from cbsae_hub.encoders.site import EditError as EditError
    from cbsae_hub.encoders.site import ResidualSite as ResidualSite
    from cbsae_hub.encoders.text import TextEncoder as TextEncoder
    from cbsae_hub.encoders.vision import VisionEncoder as VisionEncoder
    from cbsae_hub.encoders.vision import to_rgb as to_rgb
    from cbsae_hub.encoders.zero_shot import ZeroShotHead as ZeroShotHead

_HOME_OF = {
    "VisionEncoder": "cbsae_hub.encoders.vision",
    "TextEncoder": "cbsae_hub.encoders.text",
    "LanguageEncoder": "cbsae_hub.encoders.language",
    "ImageTokenEncoder": "cbsae_hub.encoders.image_tokens",
    "to_rgb": "cbsae_hub.encoders.vision",
    "explained_encoder": "cbsae_hub.encoders.explained",
    "explained_tower": "cbsae_hub.encoders.explained",
    "ResidualSite": "cbsae_hub.encoders.site",
    "EditError": "cbsae_hub.encoders.site",
    "ClipLike": "cbsae_hub.encoders.clip_like",
    "ZeroShotHead": "cbsae_hub.encoders.zero_shot",
}

__all__ = [*_HOME_OF]

__getattr__, __dir__ = on_first_use(__name__, _HOME_OF, __all__)
