import numpy as np
import torch
import torch.nn.functional as F

from training.emoji_world import clip_models, pretrain_clip
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import names_of_everything, train_tokenizer
from training.emoji_world.render import NO_OBJECT, SceneRenderer, SceneSpec


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
