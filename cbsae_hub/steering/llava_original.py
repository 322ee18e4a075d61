"""LLaVA checkpoints in the layout of the original code base, LLaVA-MORE's for one, as models of transformers.

Such a checkpoint is a language model with a projector beside it, and names its vision tower instead of holding it.
"""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
)

from cbsae_hub.encoders.weights import alone

TEXT_CONFIGS: dict[str, type[PreTrainedConfig]] = {"llava_gemma": Gemma2Config, "llava_llama": LlamaConfig}
PROJECTOR = "mlp2x_gelu"
SELECTED: dict[str, Literal["default", "full"]] = {"patch": "default", "cls_patch": "full"}
IMAGE = "<image>"
# LLaVA-MORE's form for Gemma 2; <bos> is left to the tokenizer. Others are asked in the form of LLaVA-1.5.
GEMMA_TEMPLATE = (
    "{% for message in messages %}{{ '<start_of_turn>' + message.role + '\n' }}"
    "{% for part in message.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})")  # where the Hub's client keeps a model


def load_original(
    source: dict[str, Any], vision_tower: str | Path | None = None, dtype: torch.dtype | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Builds a LLaVA and its processor from a checkpoint of the original code base; only safetensors are read.

    Args:
        source: Its place, as arguments of ``from_pretrained``.
        vision_tower: Folder or Hub id; default what the checkpoint names. A path into the Hub client's cache on
            somebody else's machine is understood as the model that was kept there.
        dtype: Data type of the model; default the checkpoint's.

    Raises:
        OSError: If weights or the vision tower are missing, or the weights are pickles.
        ValueError: If the checkpoint's language model, projector or image tokens are of a kind not known here, or its
            tensors are not those of its config.
    """
    raw, _ = PreTrainedConfig.get_config_dict(**source)
    _check(raw)
    place = {"pretrained_model_name_or_path": str(vision_tower)} if vision_tower else _source(raw["mm_vision_tower"])
    try:
        with alone:
            whole = AutoModel.from_pretrained(**place, use_safetensors=True)
        image_processor = AutoImageProcessor.from_pretrained(**place, backend="pil")
    except OSError as error:
        raise OSError(
            f"the checkpoint's vision tower {raw['mm_vision_tower']!r} was not found: give load_original its folder or "
            f"Hub id as vision_tower, and what it returns to LlavaSteerer ({error})"
        ) from error
    tower = getattr(whole, "vision_model", whole)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = _config(raw, tower.config, tokenizer.get_vocab()[IMAGE])
    tensors = _renamed(_read(source), config)
    tensors |= {f"model.vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()}
    with alone:
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype or getattr(torch, raw.get("torch_dtype") or raw.get("dtype") or "float16"),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    model, report = loaded
    text: Any = config.text_config
    if problems := {what: sorted(map(str, names)) for what, names in report.items() if names}:
        raise ValueError(f"the tensors are not those that config.json describes: {str(problems):.500}")
    if cap := getattr(text, "final_logit_softcapping", None):  # Gemma2's own head does it, LLaVA's not
        model.lm_head.register_forward_hook(lambda _head, _inputs, logits: cap * torch.tanh(logits / cap))
    ends = text.eos_token_id
    turn = tokenizer.get_vocab().get("<end_of_turn>")
    ends = [*(ends if isinstance(ends, list) else [ends]), *([] if turn is None else [turn])]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ends, tokenizer.pad_token_id
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=GEMMA_TEMPLATE if raw["model_type"] == "llava_gemma" else None,
    )
    return model, processor


def _check(raw: dict[str, Any]) -> None:
    supported: dict[str, tuple] = {
        "model_type": tuple(TEXT_CONFIGS),
        "mm_projector_type": (PROJECTOR,),
        "mm_vision_select_feature": tuple(SELECTED),
        "mm_patch_merge_type": (None, "flat"),
        "image_aspect_ratio": (None, "square", "pad"),
        "mm_use_im_start_end": (None, False),
        "unfreeze_mm_vision_tower": (None, False),
    }
    for key, values in supported.items():
        if raw.get(key) not in values:
            raise ValueError(f"{key} of this LLaVA is {raw.get(key)!r:.80}; known here: {', '.join(map(str, values))}")


def _source(tower: str) -> dict[str, str]:
    cached = _CACHED.search(tower)
    if cached is None or Path(tower).is_dir():
        return {"pretrained_model_name_or_path": tower}
    return {"pretrained_model_name_or_path": f"{cached[1]}/{cached[2]}", "revision": cached[3]}


def _config(raw: dict[str, Any], vision: PreTrainedConfig, image_token: int) -> LlavaConfig:
    if raw.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise ValueError(
            f"the projector reads width {raw['mm_hidden_size']}, the vision tower has {vision.hidden_size}: another?"
        )
    kind = TEXT_CONFIGS[raw["model_type"]]
    settings = {*kind().to_dict(), "rope_theta", "rope_scaling"} - {"model_type", "architectures"}
    text = kind.from_dict({key: value for key, value in raw.items() if key in settings})
    text.vocab_size = max(text.vocab_size, image_token + 1)
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=raw["mm_vision_select_layer"],
        vision_feature_select_strategy=SELECTED[raw["mm_vision_select_feature"]],
    )


def _read(source: dict[str, Any]) -> dict[str, Tensor]:
    folder = Path(source["pretrained_model_name_or_path"])
    if not folder.is_dir():
        folder = Path(snapshot_download(str(folder), revision=source["revision"], allow_patterns="*.safetensors"))
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise OSError(
            f"{folder} has no model*.safetensors. Weights in *.bin are pickles and are not read: convert them, on "
            "the Hub with the Space safetensors/convert, or with torch.load(weights_only=True) and save_file"
        )
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _renamed(tensors: dict[str, Tensor], config: LlavaConfig) -> dict[str, Tensor]:
    """Tensors under the names of transformers, with a row for the image token, on the scale that Gemma2 reads."""
    text: Any = config.text_config
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("model.vision_tower."):  # a copy of the tower, which the original code passes over too
            continue
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) and len(tensor) < text.vocab_size:
            # the mean of all rows: as an answer it is never more probable than all others
            mean = tensor.float().mean(0, keepdim=True).to(tensor)
            tensor = torch.cat([tensor, mean.expand(text.vocab_size - len(tensor), -1)])
        if name.startswith("model.mm_projector.2.") and isinstance(text, Gemma2Config):
            # Gemma2 once multiplied all that it read by this; it now does so with words only
            tensor = (tensor.double() * text.hidden_size**0.5).to(tensor)
        name = name.replace("model.mm_projector.0.", "model.multi_modal_projector.linear_1.")
        name = name.replace("model.mm_projector.2.", "model.multi_modal_projector.linear_2.")
        if name != "lm_head.weight" and not name.startswith("model.multi_modal_projector."):
            name = name.replace("model.", "model.language_model.", 1)
        if name != "lm_head.weight" or not text.tie_word_embeddings:
            renamed[name] = tensor
    return renamed
