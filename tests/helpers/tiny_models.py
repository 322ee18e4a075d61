"""Tiny random models of every supported class, with their image processors."""

import torch
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

LAYERS, WIDTH, SIDE, PATCH = 4, 16, 16, 8
VISION = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}


def _clip_config() -> CLIPConfig:
    vision = {**VISION, "intermediate_size": 32, "projection_dim": 8}
    return CLIPConfig(vision_config=vision, text_config=TEXT, projection_dim=8)


def _llava() -> LlavaForConditionalGeneration:
    vision = _clip_config().vision_config
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=39)
    )


BUILD = {
    "CLIPModel": lambda: CLIPModel(_clip_config()),
    "CLIPVisionModel": lambda: CLIPVisionModel(_clip_config().vision_config),
    "CLIPVisionModelWithProjection": lambda: CLIPVisionModelWithProjection(_clip_config().vision_config),
    "SiglipVisionModel": lambda: SiglipVisionModel(SiglipVisionConfig(**VISION, intermediate_size=32)),
    "Dinov2Model": lambda: Dinov2Model(Dinov2Config(**VISION)),
    "Dinov2WithRegistersModel": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**VISION, num_register_tokens=3)
    ),
    # At this range of weights attention, and with it where patches are, matters.
    "DINOv3ViTModel": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(**VISION, intermediate_size=32, num_register_tokens=3, initializer_range=0.5)
    ),
    "ViTModel": lambda: ViTModel(ViTConfig(**VISION, intermediate_size=32), add_pooling_layer=False),
    "LlavaForConditionalGeneration": _llava,
}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return BUILD[name]().eval()


SQUASHING = {
    "SiglipVisionModel": SiglipImageProcessor,
    "DINOv3ViTModel": DINOv3ViTImageProcessor,
    "ViTModel": ViTImageProcessor,
}


def processor(name: str, height: int = SIDE, width: int = SIDE):
    size = {"height": height, "width": width}
    if name in SQUASHING:
        return SQUASHING[name](size=size)
    cropping = {"size": {"shortest_edge": max(height, width)}, "crop_size": size}
    return (CLIPImageProcessor if name.startswith("CLIP") else BitImageProcessor)(**cropping)
