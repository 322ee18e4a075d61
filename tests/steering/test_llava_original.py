"""Checkpoints of the original code base: compared with language model, projector and tower run by hand."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from steerable_models import LETTERS, SPECIAL, image_processor, pictures, randomised, sae_for, vision_config
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import (
    AutoModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from cbsae_hub.metrics.steerability import first_word
from cbsae_hub.scoring.first_words import FirstWords
from cbsae_hub.steering import Edit, LlavaSteerer, Steering
from cbsae_hub.steering.llava_original import load_original

WORDS = [word for word in SPECIAL if word != "<image>"] + ["<start_of_turn>", "<end_of_turn>"] + LETTERS + ["\n"]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS = {
    "llava_gemma": (Gemma2Config, Gemma2ForCausalLM, {"query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0}),
    "llava_llama": (LlamaConfig, LlamaForCausalLM, {"rope_theta": 5000.0}),
}
NEW = 8


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and <s> before all."""
    letters = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    letters.add_special_tokens([word for word in WORDS if len(word) > 1])
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    letters.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    letters.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=letters, **names)


@pytest.fixture(scope="module", params=KINDS)
def original(request, tmp_path_factory):
    """A checkpoint's folder, and what is in it: language model, projector, tower."""
    folder = tmp_path_factory.mktemp(request.param)
    kind, language, settings = KINDS[request.param]
    torch.manual_seed(0)
    text = randomised(language(kind(**TEXT, **settings)), seed=4)
    tower = randomised(AutoModel.from_config(vision_config("dinov2")))
    tower.save_pretrained(folder / "tower")
    image_processor().save_pretrained(folder / "tower")
    projector = {f"{i}.{w}": torch.randn(*s) / 4 for i, d in ((0, 16), (2, 32)) for w, s in
                 (("weight", (32, d)), ("bias", (32,)))}  # fmt: skip
    tensors = {name: tensor.clone() for name, tensor in text.state_dict().items()}
    if text.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    tensors |= {f"model.mm_projector.{name}": tensor for name, tensor in projector.items()}
    tensors["model.vision_tower.vision_tower.layernorm.weight"] = torch.ones(16)
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, folder / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    config = {
        **TEXT,
        **settings,
        "model_type": request.param,
        "_name_or_path": "/leonardo/somewhere",
        "torch_dtype": "bfloat16",
        "mm_vision_tower": str(folder / "tower"),
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 16,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer().save_pretrained(folder)
    return folder, text, projector, tower


def _changed(folder, target, **settings):
    """A copy of a checkpoint with some settings changed."""
    target.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | settings
    (target / "config.json").write_text(json.dumps(config))
    return {"pretrained_model_name_or_path": str(target)}


@torch.no_grad()
def _logits_by_hand(text, projector, tower, image, before, after):
    """As the original code base: words, image features, words, on one scale, into the language model."""
    pixels = image_processor()(images=[image], return_tensors="pt").pixel_values
    seen = tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
    features = F.linear(seen, projector["0.weight"], projector["0.bias"])
    features = F.linear(F.gelu(features), projector["2.weight"], projector["2.bias"])
    read = _tokenizer()
    ids = [read(before).input_ids, read(after, add_special_tokens=False).input_ids]
    words = [F.embedding(torch.tensor(part), text.model.embed_tokens.weight) for part in ids]
    scale = 32**0.5 if isinstance(text, Gemma2ForCausalLM) else 1.0
    return text(inputs_embeds=torch.cat([words[0], features, words[1]])[None] * scale).logits[0]


PROMPTS = {
    "llava_gemma": ("<start_of_turn>user\n", "\nWhat?<end_of_turn>\n<start_of_turn>model\n"),
    "llava_llama": ("USER: ", "\nWhat? ASSISTANT:"),
}


@torch.no_grad()
def test_logits_are_those_of_the_parts(original):
    folder, *parts = original
    steerer = LlavaSteerer.from_pretrained(folder, sae_for())
    model, processor = steerer.model, steerer.processor
    assert model.dtype == torch.float32 and steerer.tower.layer == 2
    image = pictures(1)[0]
    expected = _logits_by_hand(*parts, image, *PROMPTS[folder.name.rstrip("0")])
    inputs = processor(images=[image], text=[steerer.conversation("What?")], return_tensors="pt")
    assert (inputs.input_ids == len(WORDS)).sum() == 4  # 16 pixels in patches of 8
    logits = model(**inputs).logits[0]
    assert_close(logits[:, :-1], expected, atol=1e-4, rtol=1e-4)
    assert (logits[:, -1] < expected.max(-1).values).all()  # the image token is never said
    assert expected.argmax(-1).unique().numel() > 3
    assert steerer.prompt_ids("What?", 4)[0].tolist() == inputs.input_ids[0].tolist()


def test_it_is_steered_and_answers(original):
    steerer = LlavaSteerer.from_pretrained(original[0], sae_for())
    steerings = [None, Steering([Edit(3, 30.0)]), Steering([Edit(5, 40.0)], isolate=True)]
    images = pictures(1) * 3
    answers = steerer.generate(images, "What?", steerings, NEW)
    assert len(set(answers)) > 1
    words = FirstWords(steerer, "What?", NEW)(steerer.image_features(images, steerings))
    assert words == [first_word(answer) for answer in answers]


def test_turns_end_answers(original):
    model, processor = load_original({"pretrained_model_name_or_path": str(original[0])})
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == [2, WORDS.index("<end_of_turn>")]
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == len(WORDS) == model.config.image_token_id


def test_a_tower_that_is_elsewhere(original, tmp_path):
    folder = original[0]
    source = _changed(folder, tmp_path / "a", mm_vision_tower="/cluster/models--nobody--nothing/snapshots/" + "0" * 40)
    with pytest.raises(OSError, match="give load_original its folder or Hub id"):
        load_original(source)
    model, _ = load_original(source, vision_tower=folder / "tower")
    expected = original[3].state_dict()
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llava_mpt"}, "model_type of this LLaVA is 'llava_mpt'"),
        ({"mm_projector_type": "linear"}, "known here: mlp2x_gelu"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"image_aspect_ratio": "anyres"}, "known here: None, square, pad"),
        ({"mm_hidden_size": 1024}, "reads width 1024, the vision tower has 16"),
        ({"num_hidden_layers": 3}, "missing_keys.*layers.2"),
        ({"num_hidden_layers": 1}, "unexpected_keys.*layers.1"),
        ({"intermediate_size": 48}, "mismatched_keys.*mlp"),
    ],
)
def test_other_checkpoints_are_refused(original, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load_original(_changed(original[0], tmp_path / "a", **settings))


def test_pickles_are_refused(original, tmp_path):
    source = _changed(original[0], tmp_path / "a")
    for file in (tmp_path / "a").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(OSError, match="pickles and are not read: convert them"):
        load_original(source)
