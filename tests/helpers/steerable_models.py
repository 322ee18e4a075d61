"""Tiny random generators, complete with their processors: a LLaVA and pipelines that draw; and SAEs for them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.neurons.table import NEURON_COLUMNS, NeuronTable

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
LETTERS = [chr(code) for code in range(32, 127)]
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 8,
}
TOWERS = {"clip": CLIPVisionConfig, "dinov2": Dinov2Config}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def pictures(count: int, side: int = 16) -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def square(side: int) -> dict:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def image_processor(side: int = VISION["image_size"]) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(**square(side))


def tokenizer(max_length: int = 4096, ends: bool = False) -> PreTrainedTokenizerFast:
    """One token per character; ``ends`` puts CLIP's marks of start and end around a text."""
    vocabulary = {token: number for number, token in enumerate(SPECIAL + LETTERS)}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    letters.decoder = decoders.Fuse()
    if ends:
        letters.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=letters,
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=max_length,
        **names,
    )


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that different inputs give different outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5, generator=generator)
            elif not weight.eq(weight.flatten()[0]).all():  # such as CLS; not biases and norms
                weight.normal_(generator=generator)
    return model.eval()


def vision_config(tower: str = "clip", vision: dict = VISION):
    """Of a tower of a family; what a family does not know of the settings is left out."""
    known = TOWERS[tower]().to_dict()
    return TOWERS[tower](**{key: value for key, value in vision.items() if key in known})


def embedded(tower: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What goes into the first block of a tower of either family."""
    return getattr(tower, "pre_layrnorm", torch.nn.Identity())(tower.embeddings(pixels))


def llava(vision: dict = VISION, chat_template: str | None = None, tower: str = "clip", **config) -> tuple:
    """A LLaVA and its processor."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(**text, vocab_size=len(SPECIAL + LETTERS), max_position_embeddings=4096)
    config = {"vision_feature_layer": -2, "image_token_id": SPECIAL.index("<image>"), **config}
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision_config(tower, vision), text_config=text, **config)
    )
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    processor = LlavaProcessor(
        image_processor(vision["image_size"]),
        tokenizer(),
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    return randomised(model, seed=2), processor  # a seed with varied answers


def unclip(vision: dict = VISION) -> StableUnCLIPImg2ImgPipeline:
    """A pipeline that draws 16 x 16 pixels from 8 x 8 latents."""
    d = vision["projection_dim"]
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision))
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(**square(vision["image_size"])),
        image_encoder=randomised(encoder),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=d),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        text_encoder=randomised(CLIPTextModel(text_config())),
        **drawing_parts(class_embed_type="projection", projection_class_embeddings_input_dim=2 * d),
    )


def text_config(**changes) -> CLIPTextConfig:
    settings = {**TEXT, **ENDS, "vocab_size": len(SPECIAL + LETTERS), "max_position_embeddings": 16, **changes}
    return CLIPTextConfig(**settings)


def drawing_parts(width: int = TEXT["hidden_size"], ends: bool = False, **unet) -> dict:
    """The parts of a pipeline that draws 16 x 16 pixels from 8 x 8 latents, for prompts of a width."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=width,
        **unet,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    options = {
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "steps_offset": 1,
    }
    scheduler = DDIMScheduler(**options)
    return {"tokenizer": tokenizer(16, ends), "unet": randomised(unet), "scheduler": scheduler, "vae": randomised(vae)}


def stable_diffusion(layers: int = 3) -> StableDiffusionPipeline:
    """A pipeline that draws 16 x 16 pixels from prompts of up to 14 letters, a token each."""
    return StableDiffusionPipeline(
        text_encoder=randomised(CLIPTextModel(text_config(num_hidden_layers=layers))),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **drawing_parts(ends=True),
    )


def stable_diffusion_xl(widths: tuple[int, int] = (16, 24), **options) -> StableDiffusionXLPipeline:
    """The same with two text encoders of these widths, of three blocks each."""
    first, second = (text_config(hidden_size=width, num_hidden_layers=3, projection_dim=8) for width in widths)
    times = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 8}
    return StableDiffusionXLPipeline(
        text_encoder=randomised(CLIPTextModel(first)),
        text_encoder_2=randomised(CLIPTextModelWithProjection(second), seed=1),
        tokenizer_2=tokenizer(16, ends=True),
        add_watermarker=False,
        **drawing_parts(sum(widths), ends=True, addition_embed_type="text_time", **times),
        **options,
    )


def clip() -> CLIPModel:
    return randomised(
        CLIPModel(CLIPConfig(text_config=text_config().to_dict(), vision_config=VISION, projection_dim=8))
    )


def sae_for(d_in: int = VISION["hidden_size"], layer: int | None = 2, d_sae: int = 32, activation="topk") -> SAE:
    sae = SAE(d_in, d_sae, activation, 6, layer=layer, seed=0)
    with torch.no_grad():
        sae.b_dec.copy_(torch.linspace(-0.3, 0.3, d_in))
    return sae.eval()


def cbsae_for(d_in: int = VISION["hidden_size"], layer: int | None = 2, **settings) -> CBSAE:
    """32 of 64 neurons, and four concepts of which the decoder reads two."""
    names = [None] * 64
    names[0], names[2], names[4] = "pizza", "dog", "dog"
    settings = {"cb_k": 2, "names": names, "seed": 0} | settings
    sae = sae_for(d_in, layer, 64)
    return CBSAE.from_sae(sae, range(0, 64, 2), ["pizza", "red", "left", "night"], **settings).eval()


NAMES = ["pizza", "striped fur", "pizza", None, "zebra crossing", *[None] * 27]


def table(names: list[str | None], p99: float = 1.0) -> NeuronTable:
    """Neurons of :func:`sae_for` with these first names, of which the later have the better scores."""
    rows = [
        {"neuron": n, "name": name, "names": [name, "second name"] if name else [], "null_percentile": 0.5}
        | {"scores": [float(n), 0.0] if name else [], "p99": p99 * (n + 1)}
        for n, name in enumerate(names)
    ]
    return NeuronTable(pd.DataFrame(rows).reindex(columns=list(NEURON_COLUMNS)))


class Bottleneck(torch.nn.Module):
    """The same as code of somebody else, of which only ``encode`` and ``decode`` are known."""

    def __init__(self, d_in: int = VISION["hidden_size"], layer: int | None = 2):
        super().__init__()
        self.sparse, self.d_in, self.layer = sae_for(d_in, layer), d_in, layer
        self.into, self.out = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((d_in, 4), (4, d_in)))
        self.sae_neuron_ids = list(range(0, 64, 2))
        self.neuron_names = ["pizza", "dog", "dog", *[None] * 29, "pizza", "red", "left", "night"]
        self.d_latent = 36

    def encode(self, x):
        return torch.cat([self.sparse.encode(x), (x - self.sparse.b_dec) @ self.into], -1)

    def decode(self, z):
        sparse, concepts = z[..., :32], z[..., 32:]
        kept = torch.zeros_like(concepts).scatter(-1, concepts.topk(2).indices, 1.0) * concepts
        return self.sparse.decode(sparse) + kept @ self.out


def edited_by_hand(sae, x, edits, isolate=False, keep_error=False):
    """What `Steering` says, latent by latent: ``x [tokens, d]`` -> ``[tokens, d]``; edits are (neuron, value, op)."""
    z = sae.encode(x)
    new = torch.zeros_like(z) if isolate else z.clone()
    for neuron, value, op in edits:
        for token in range(len(x)):
            old = z[token, neuron]
            new[token, neuron] = {"set": value, "add": old + value, "scale": old * value}[op]
    return sae.decode(new) + (x - sae.decode(z) if keep_error else 0)


def blocks_by_hand(blocks, x):
    """The residual stream through some blocks of a vision tower."""
    for block in blocks:
        x = block(x, attention_mask=None)
    return x


@contextmanager
def in_step(modules, threads: int):
    """Each of these modules runs when, and only when, all threads have reached it."""
    barrier = threading.Barrier(threads, timeout=20)

    def meet(*_):
        barrier.wait()

    hooks = [module.register_forward_pre_hook(meet) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def in_threads(functions):
    """What each function returns, all run side by side."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]
