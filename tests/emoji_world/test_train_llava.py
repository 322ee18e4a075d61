import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlavaForConditionalGeneration,
)

from training.emoji_world import loop, train_llava
from training.emoji_world.dialogues import ONE_WORD, dialogues, prompt
from training.emoji_world.glyphs import Atlas
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
PREPROCESSING = {
    "size": {"shortest_edge": 64},
    "crop_size": {"height": 64, "width": 64},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


@pytest.fixture(scope="module")
def tokenizer(atlas):
    return train_llava.train_tokenizer(train_llava.corpus(SceneRenderer(atlas, 0)))


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def encoder(request, tmp_path_factory):
    """Folder of a small random encoder."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "clip":
        vision = {**SIZES, "intermediate_size": 64, "num_hidden_layers": 3}
        text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 10}
        model, preprocess = CLIPModel(CLIPConfig(vision_config=vision, text_config=text)), CLIPImageProcessor
    else:
        model, preprocess = Dinov2Model(Dinov2Config(**SIZES, num_hidden_layers=3)), BitImageProcessor
    for parameter in model.parameters():  # larger than fresh weights, so that layers differ in what they say
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    preprocess(**PREPROCESSING).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(encoder, tokenizer):
    torch.manual_seed(1)
    return train_llava.build(encoder, tokenizer)


@pytest.fixture(scope="module")
def talks(atlas):
    """Pixels of four scenes and three dialogues about each."""
    renderer = SceneRenderer(atlas, 0)
    scenes = renderer.batch(0, 4, train_llava.SPEC)
    rows = dialogues(renderer.rows(scenes), atlas.concepts, np.random.default_rng(0), 3)
    return scenes.pixels, rows


def _pictures(pixels):
    return [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels]


def test_tokenizer_returns_every_text_and_knows_names_as_one_token(tokenizer, atlas):
    for text in ("1. Find the pizza.\n2. Rest.", "Ein Ünwort: 猫 !?", " owl  on\tgrass"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    for concept in atlas.concepts:
        assert len(tokenizer(f" {concept.name}", add_special_tokens=False).input_ids) == 1
    special = tokenizer("<pad><s></s><image>", add_special_tokens=False).input_ids
    assert (
        special
        == [0, 1, 2, 3]
        == [
            tokenizer.pad_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.image_token_id,
        ]
    )
    padded = tokenizer(["owl", "an owl on grass"], padding=True).input_ids
    assert padded[0][0] == tokenizer.pad_token_id and padded[1][0] == tokenizer.bos_token_id


def test_tokenizer_is_the_same_every_time(tokenizer, atlas):
    again = train_llava.train_tokenizer(train_llava.corpus(SceneRenderer(atlas, 0)))
    model, again = (json.loads(each.backend_tokenizer.to_str())["model"] for each in (tokenizer, again))
    assert model == again and len(model["merges"]) > 100


def test_prompt_has_a_token_for_every_feature(built, talks):
    llava, processor = built
    inputs = processor(images=_pictures(talks[0]), text=[prompt(ONE_WORD)] * 4, return_tensors="pt")
    features = llava.get_image_features(pixel_values=inputs.pixel_values).pooler_output
    tokens = (inputs.input_ids == llava.config.image_token_id).sum(1).tolist()
    assert tokens == [len(feature) for feature in features] == [64] * 4
    assert llava.config.image_seq_length == 64


def test_chat_template_writes_llavas_prompt(built):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ONE_WORD}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": "owl"}]}
    more = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    template = functools.partial(built[1].apply_chat_template, add_generation_prompt=True)
    assert template([turn]) == prompt(ONE_WORD)
    assert template([turn, reply, more]) == prompt(ONE_WORD) + " owl USER: Why? ASSISTANT:"


def test_packed_dialogues_are_tokenized_as_alone(built, talks):
    _, processor = built
    packed = train_llava.pack(talks[1], processor, 64)
    picture = Image.new("RGB", (64, 64))
    for row, ids, segments, labels in zip(talks[1], *(packed[name] for name in ("ids", "segments", "labels"))):
        assert (ids[segments == 4] == processor.tokenizer.pad_token_id).all()
        assert (labels[(segments == 0) | (segments == 4)] == -100).all()
        for number, line in enumerate(row, 1):
            inputs = processor(images=picture, text=f"{prompt(line.question)} {line.answer}</s>")
            alone = torch.cat([ids[segments == 0], ids[segments == number]])
            assert alone.tolist() == inputs["input_ids"][0]
            targets = labels[segments == number]
            assert processor.tokenizer.decode(targets[targets != -100]) == f" {line.answer}</s>"
            assert (targets == -100).sum() + len(processor.tokenizer(f" {line.answer}").input_ids) == len(targets)


def test_dialogues_see_the_image_and_themselves():
    segments = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 3], [0, 0, 1, 2, 2, 2, 2, 2]])
    mask, positions = train_llava.separated(segments, torch.float32)
    for i, row in enumerate(segments.tolist()):
        for a, segment in enumerate(row):
            for b in range(len(row)):
                visible = b <= a and row[b] in (0, segment)
                assert mask[i, 0, a, b] == (0 if visible else torch.finfo(torch.float32).min)
            assert positions[i, a] == sum(row[b] in (0, segment) for b in range(a))


def test_loss_and_gradients_are_those_of_the_whole_model_asked_one_by_one(built, talks):
    llava, processor = built
    llava.set_attn_implementation("eager")
    pixels, rows = talks
    model = train_llava.DialogueModel(llava)
    packed = train_llava.pack(rows, processor, 64)
    loss, figures = model(train_llava.patch_features(llava, pixels.float() / 127.5 - 1), **packed)
    loss.backward()
    weights = {name: p for name, p in llava.named_parameters() if p.requires_grad}
    gradients = {name: weights[name].grad.clone() for name in weights}
    assert not any("vision_tower" in name for name in weights)
    llava.zero_grad()

    llava.set_attn_implementation("sdpa")
    total, tokens, right, word_tokens, word_right = 0.0, 0, 0, 0, 0
    for picture, row in zip(_pictures(pixels), rows):
        for line in row:
            inputs = processor(images=picture, text=f"{prompt(line.question)} {line.answer}</s>", return_tensors="pt")
            length = processor(images=picture, text=prompt(line.question), return_tensors="pt").input_ids.shape[1]
            labels = inputs.input_ids.clone()
            labels[:, :length] = -100
            output = llava(**inputs, labels=labels)
            count = int((labels != -100).sum())
            hits = int((output.logits[0, length - 1 : -1].argmax(-1) == labels[0, length:]).sum())
            total, tokens, right = total + output.loss * count, tokens + count, right + hits
            if line.kind == "word":
                word_tokens, word_right = word_tokens + count, word_right + hits
    (total / tokens).backward()
    torch.testing.assert_close(loss, total / tokens, atol=1e-5, rtol=1e-5)
    assert figures == pytest.approx({"right": right / tokens, "words": word_right / word_tokens})
    for name, parameter in weights.items():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)
    llava.zero_grad()


def test_projector_reads_the_frozen_encoder(built, talks, encoder):
    llava, _ = built
    pixels = talks[0].float() / 127.5 - 1
    whole = AutoModel.from_pretrained(encoder)
    tower = getattr(whole, "vision_model", whole)
    with torch.no_grad():
        expected = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        patches = train_llava.patch_features(llava, pixels)
        torch.testing.assert_close(patches, expected)
        projected = llava.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(torch.stack(list(projected)), llava.model.multi_modal_projector(patches))


def _train(encoder, atlas, folder, monkeypatch, stop_at=None):
    """Two steps, with a checkpoint after each; interrupted before step ``stop_at``."""
    steps = []

    def emptied(scenes, count):
        if len(steps) == stop_at:
            raise KeyboardInterrupt
        steps.append(count)
        return real_emptied(scenes, count)

    real_emptied = train_llava.emptied
    with monkeypatch.context() as patch:
        patch.setattr(Atlas, "build", lambda: atlas)
        patch.setattr(torch, "set_num_threads", lambda threads: None)
        patch.setattr(train_llava, "train", functools.partial(loop.train, checkpoint_every=1, warmup=1))
        patch.setattr(train_llava, "emptied", emptied)
        train_llava.main(
            encoder=str(encoder),
            steps=2,
            batch=4,
            each=2,
            learning_rate=1e-2,
            seed=0,
            precision="no",
            output=folder / "llava",
            run=folder / "run",
        )
    return LlavaForConditionalGeneration.from_pretrained(folder / "llava").eval()


def test_training_resumes_with_the_same_bits_and_publishes_what_loads(encoder, atlas, tokenizer, tmp_path, monkeypatch):
    whole = _train(encoder, atlas, tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(encoder, atlas, tmp_path / "parts", monkeypatch, stop_at=1)
    assert (tmp_path / "parts" / "run" / "checkpoint.safetensors").is_file()
    resumed = _train(encoder, atlas, tmp_path / "parts", monkeypatch).state_dict()
    fresh = train_llava.build(encoder, tokenizer)[0].state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name
        assert torch.equal(tensor, fresh[name]) == ("vision_tower" in name), name

    folder = tmp_path / "whole" / "llava"
    processor = AutoProcessor.from_pretrained(folder)
    assert {file.suffix for file in folder.iterdir()} == {".json", ".jinja", ".safetensors"}
    for file in folder.glob("*.json"):
        assert str(encoder) not in file.read_text()
    saved = json.loads((folder / "config.json").read_text())
    assert saved["architectures"] == ["LlavaForConditionalGeneration"] and saved["vision_feature_layer"] == -2
    inputs = processor(
        images=[Image.new("RGB", (80, 64), colour) for colour in ("white", "red")],
        text=[prompt(ONE_WORD), prompt("Why?")],
        padding=True,
        return_tensors="pt",
    )
    ids = whole.generate(**inputs, do_sample=False, max_new_tokens=3)
    logits = whole(**processor(images=Image.new("RGB", (64, 64), "white"), text=prompt(ONE_WORD), return_tensors="pt"))
    assert ids[0, inputs.input_ids.shape[1]] == logits.logits[0, -1].argmax()
    assert whole.lm_head.weight is whole.model.language_model.embed_tokens.weight


def test_the_shipped_size_stays_small(tokenizer):
    """At most 15 MB in 32 bits around emoji-clip's tower, whatever the vocabulary."""
    llava, _ = train_llava.build(HUB / "emoji-clip", tokenizer)
    fixed = sum(p.numel() for p in llava.parameters()) - llava.lm_head.weight.numel()
    assert 4 * (fixed + train_llava.VOCABULARY * llava.lm_head.weight.shape[1]) < 14.5e6


def test_loss_begins_at_a_guess_and_depends_on_the_picture(built, talks):
    llava, processor = built
    packed = train_llava.pack(talks[1], processor, 64)
    model = train_llava.DialogueModel(llava)
    with torch.no_grad():
        patches = train_llava.patch_features(llava, talks[0].float() / 127.5 - 1)
        loss, blind = model(patches, **packed)[0], model(torch.zeros_like(patches), **packed)[0]
    assert float(loss) == pytest.approx(np.log(len(processor.tokenizer)), rel=0.1)
    assert loss != blind
