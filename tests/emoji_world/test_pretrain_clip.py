import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
from transformers import CLIPModel

from training.emoji_world import clip_models, loop, pretrain_clip
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import captions, names_of_everything, train_tokenizer
from training.emoji_world.paths import HUB
from training.emoji_world.render import NO_OBJECT, STYLES, SceneRenderer, SceneSpec


def test_patches_show_the_object_whose_ellipse_they_lie_in_or_else_the_background(atlas):
    scenes = SceneRenderer(atlas, 3).batch(0, 12, SceneSpec(objects=(1, 2, 3)))
    names = len(atlas.concepts)
    patches, shares = pretrain_clip.patch_targets(scenes, names, np.random.default_rng(0))
    assert all(len(set(row)) == pretrain_clip.PATCHES_READ for row in patches.tolist())
    for i, row in enumerate(patches.tolist()):
        for place, patch in enumerate(row):
            x, y = patch % 8 * 8 + 4, patch // 8 * 8 + 4
            visible = []
            for concept, (x0, y0, x1, y1) in zip(scenes.concepts[i], scenes.boxes[i]):
                if concept == NO_OBJECT or x1 <= x0:
                    continue
                if ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1:
                    visible.append(int(concept))
            expected = torch.zeros(names + len(BACKGROUNDS))
            for column in visible or [names + int(scenes.backgrounds[i])]:
                expected[column] += 1 / max(1, len(visible))
            torch.testing.assert_close(shares[i, place], expected)


def test_the_third_contrast_is_cross_entropy_of_patches_and_names(atlas):
    """Written out patch by patch, through the last layers that a CLS token takes."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([concept.name for concept in atlas.concepts])
    clip = clip_models.build(tokenizer, teacher=False).eval()
    model = pretrain_clip.ContrastiveModel(clip)
    scenes = SceneRenderer(atlas, 3).batch(0, 4, pretrain_clip.SPEC)
    rng = np.random.default_rng(0)
    ids = tokenizer(names_of_everything(atlas.concepts, rng), padding=True, return_tensors="pt").input_ids
    pixels = scenes.pixels.float() / 127.5 - 1
    targets = pretrain_clip._targets(scenes, len(atlas.concepts))
    patches, shares = pretrain_clip.patch_targets(scenes, len(atlas.concepts), rng)
    with torch.no_grad():
        without, _ = model(pixels, ids[:4], ids, targets)
        whole, figures = model(pixels, ids[:4], ids, targets, (patches, shares))
        hidden = clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        names = clip_models.embed_text(clip, ids)[: shares.shape[-1]]
        losses = []
        for i in range(4):
            for place, patch in enumerate(patches[i].tolist()):
                patch_embedding = clip.visual_projection(clip.vision_model.post_layernorm(hidden[i, 1 + patch]))
                logits = clip_models.logit_scale(clip) * F.normalize(patch_embedding, dim=0) @ names.T
                losses.append(-(shares[i, place] * logits.log_softmax(0)).sum())
    assert abs(figures["patches"] - torch.stack(losses).mean().item()) < 1e-4
    assert abs((whole - without).item() - 0.5 * figures["patches"]) < 1e-4


def test_a_quarter_of_a_readers_scenes_are_labels_alone_which_are_called_by_their_word(atlas):
    renderer, size = SceneRenderer(atlas, 3), 48
    scenes = pretrain_clip.reader_scenes(renderer, 5, size)
    texts = captions(scenes, atlas.concepts, np.random.default_rng(0))
    alone = (scenes.concepts == NO_OBJECT).all(1)
    assert np.array_equal(alone, np.arange(size) >= 36)
    others = renderer.batch(5, 36, pretrain_clip.SPEC)
    assert torch.equal(scenes.pixels[:36], others.pixels)
    assert texts[:36] == captions(others, atlas.concepts, np.random.default_rng(0))
    words = [atlas.concepts[word].name for word in scenes.words[alone]]
    assert texts[36:] == words and len(set(words)) > 3

    objects, background, _ = pretrain_clip._targets(scenes, len(atlas.concepts))
    assert torch.equal(objects[36:].argmax(1), torch.from_numpy(scenes.words[alone]))
    assert torch.allclose(objects.sum(1), torch.ones(size)) and set(objects[36:].flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(objects[:36], pretrain_clip._targets(others, len(atlas.concepts))[0])
    _, shares = pretrain_clip.patch_targets(scenes, len(atlas.concepts), np.random.default_rng(0))
    assert torch.equal(shares[36:, :, len(atlas.concepts) :], background[36:, None].expand(-1, shares.shape[1], -1))

    plain = renderer.batch(5, 12, pretrain_clip.LABEL_ALONE, words=np.full(12, NO_OBJECT))
    differs = (scenes.pixels[36:] != plain.pixels).any(1).flatten(1).float().mean(1)
    assert differs.min() > 0.05, "there is a label on each"


def test_the_last_stage_trains_the_published_encoder_on_and_sees_more_sketches(atlas, tmp_path, monkeypatch):
    call = {}

    def train(model, make_batch, accelerator, **options):
        call.update(options, clip=model.clip, scenes=make_batch(0)[3][2])  # the right styles

    monkeypatch.setattr(loop.Atlas, "build", lambda: atlas)
    monkeypatch.setattr(pretrain_clip, "train", train)
    monkeypatch.setattr(pretrain_clip.clip_models, "publish_clip", lambda *_: None)
    pretrain_clip.main(sketches=True, batch=256, output=tmp_path / "emoji-clip")
    published = CLIPModel.from_pretrained(HUB / "emoji-clip").state_dict()
    assert all(torch.equal(weight, published[name]) for name, weight in call["clip"].state_dict().items())
    assert (call["steps"], call["learning_rate"], call["run"].name) == (1100, 5e-4, "emoji-clip-sketches")
    shares = call["scenes"].mean(0)
    assert shares[STYLES.index("sketch")].item() == pytest.approx(0.6 * 3 / 4, abs=0.1)
    assert shares[STYLES.index("plain")].item() == pytest.approx(0.4, abs=0.1)


def test_a_training_is_one_of_several():
    with pytest.raises(typer.BadParameter, match="--sketches and --reader are different trainings"):
        pretrain_clip.main(teacher=True, reader=True)
