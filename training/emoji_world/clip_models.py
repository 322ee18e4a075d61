"""The two CLIP models of Emoji World behind one interface: transformers' is explained, open_clip's is the teacher."""

import math
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from cbsae_hub.encoders.clip_like import save_clip_like
from training.emoji_world.captions import CONTEXT
from training.emoji_world.paths import publish
from training.emoji_world.render import SIDE

PATCH = 8
PREPROCESSING = {
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def build(tokenizer: CLIPTokenizer, teacher: bool) -> torch.nn.Module:
    """A fresh model: 6 vision layers of width 128 in transformers, or for the teacher 4 of width 96 in open_clip."""
    if teacher:
        return open_clip.CLIP(**teacher_config(tokenizer))
    clip = CLIPModel(_clip_config(tokenizer))
    clip.set_attn_implementation("eager")  # trains a quarter faster on a CPU than the fused one; not saved
    return clip


def _clip_config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    both = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "projection_dim": 128}
    vision = {**both, "num_hidden_layers": 6, "image_size": SIDE, "patch_size": PATCH}
    text = {**both, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=128)


def teacher_config(tokenizer: CLIPTokenizer) -> dict:
    """open_clip's ``model_cfg`` of the teacher."""
    return {
        "embed_dim": 96,
        "vision_cfg": {"image_size": SIDE, "layers": 4, "width": 96, "head_width": 24, "patch_size": PATCH},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": len(tokenizer), "width": 96, "heads": 4, "layers": 2},
    }


def embed_text(clip: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Unit text embeddings of token ids, ``[n, length] -> [n, d]``."""
    if isinstance(clip, CLIPModel):
        texts = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    else:
        texts = _encode_short_text(clip, ids)
    return F.normalize(texts.float(), dim=-1)


def _encode_short_text(clip: open_clip.CLIP, ids: torch.Tensor) -> torch.Tensor:
    """``clip.encode_text`` for texts padded to less than the context: what is behind the end is never looked at."""
    length = ids.shape[1]
    x = clip.token_embedding(ids) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    return x[torch.arange(len(ids)), ids.argmax(1)] @ clip.text_projection


def embed_images(clip: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Unit image embeddings of normalised pixels, ``[n, 3, 64, 64] -> [n, d]``."""
    if isinstance(clip, CLIPModel):
        images = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    else:
        images = clip.encode_image(pixels)
    return F.normalize(images.float(), dim=-1)


def embed_images_and_patches(
    clip: CLIPModel, pixels: torch.Tensor, patches: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit embeddings of images ``[n, d]``, and of some of their patches ``[n, patches, d]``.

    A patch of the second-last layer goes through the norm and the projection that the CLS token of the last one takes.

    Args:
        clip: The explained encoder.
        pixels: ``[n, 3, 64, 64]``, normalised.
        patches: Indices ``[n, patches]``.
    """
    output = clip.vision_model(pixel_values=pixels, output_hidden_states=True)
    hidden = output.hidden_states[-2][:, 1:]
    read = hidden.gather(1, patches[..., None].expand(-1, -1, hidden.shape[-1]))
    read = clip.visual_projection(clip.vision_model.post_layernorm(read))
    images = clip.visual_projection(output.pooler_output)
    return F.normalize(images.float(), dim=-1), F.normalize(read.float(), dim=-1)


def logit_scale(clip: torch.nn.Module) -> torch.Tensor:
    """The learned inverse temperature, capped at CLIP's 100."""
    return clip.logit_scale.clamp(max=math.log(100)).exp()


def publish_clip(clip: torch.nn.Module, tokenizer: CLIPTokenizer, folder: Path, teacher: bool) -> None:
    """Saves model, tokenizer and preprocessing as their library reads them."""
    if teacher:
        preprocessing = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        publish(folder, lambda to: save_clip_like(clip, tokenizer, teacher_config(tokenizer), preprocessing, to))
    else:
        processor = CLIPProcessor(image_processor=CLIPImageProcessor(**PREPROCESSING), tokenizer=tokenizer)
        publish(folder, clip.save_pretrained, processor.save_pretrained)
