"""Neurons in LLaVA's own words, against one call of generate for each answer; masks against latents by hand."""

import numpy as np
import pandas as pd
import torch
from PIL import Image
from small_hub import Pictures, make_hub
from steerable_models import llava, pictures, sae_for

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.scoring.outcomes import WHITE
from cbsae_hub.steering import Edit, LlavaSteerer, RandomDirection, Steering
from cbsae_hub.studies.own_words import MaskedImages, OwnWords, most_frequent, noise_image

ALPHA, SEED, NEW = 30.0, 5, 5
TOPS = {3: [5, 0, 2], 7: [2], 9: []}


def test_every_answer_is_that_of_one_call():
    steerer, images = LlavaSteerer(*llava(), sae_for()), pictures(6)
    words = OwnWords(steerer, lambda neuron, rows: [images[row] for row in rows], ALPHA, "What?", NEW, SEED)
    ways = words.ways(pd.DataFrame({"neuron": list(TOPS), "top_images": list(TOPS.values())}))
    answers = {method: ask() for method, ask in ways.items()}

    def one(image, steering=None):
        return steerer.generate([image], "What?", steering, NEW)[0]

    for place, (neuron, tops) in enumerate(TOPS.items()):
        added = Steering([Edit(neuron, ALPHA, "add")], keep_error=True)
        assert answers["LLaVA, white, direction added"][place] == one(WHITE, added)
        noise = one(WHITE, RandomDirection(added, SEED + neuron))
        assert answers["control: LLaVA, white, random direction"][place] == noise
        assert answers["control: LLaVA, white"][place] == one(WHITE)
        assert answers["control: LLaVA, noise"][place] == one(noise_image(SEED))
        for method, steering in (
            ("LLaVA, masked images, direction added", added),
            ("control: LLaVA, masked images", None),
        ):
            said = [one(images[row], steering).lower().strip() for row in tops]
            assert answers[method][place] == (max(said, key=said.count) if said else "")


def test_the_direction_is_added_and_nothing_else_changes():
    sae, steerer = sae_for(), LlavaSteerer(*llava(), sae_for())
    added = Steering([Edit(4, ALPHA, "add")], keep_error=True)
    v = steerer.activations([WHITE])
    moved = steerer.features_of(v + ALPHA * sae.W_dec[4])
    torch.testing.assert_close(steerer.image_features([WHITE], added), moved, atol=1e-4, rtol=1e-4)


def test_the_most_frequent_answer_counts():
    assert most_frequent(["A", "b", " a", "c", "d"], [0, 0, 0, 2, 2], 3) == ["a", "", "c"]


def test_patches_where_the_neuron_is_weak_are_white(tmp_path):
    sae, encoder, *_ = make_hub(tmp_path)
    images = Pictures(12)
    neuron = int((sae.encode(encoder(images[:]["image"])) > 0).flatten(0, 1).sum(0).argmax())
    rows = [4, 7, 9]
    shown = MaskedImages(sae, encoder, images, 2)(neuron, rows)
    assert len(shown) == 2
    for picture, row in zip(shown, rows):
        latents = sae.encode(encoder([images[row]["image"]]))[0, :, neuron].reshape(encoder.grid)
        before, after = (np.asarray(one.convert("RGB")) for one in (images[row]["image"], picture))
        for place in np.ndindex(*encoder.grid):
            patch = tuple(slice(8 * i, 8 * i + 8) for i in place)
            strong = latents[place] >= latents.max() / 2
            np.testing.assert_array_equal(after[patch], before[patch] if strong else np.full((8, 8, 3), 255))
    whole = VisionEncoder(encoder.model, encoder.processor, encoder.layer, "mean")
    (plain,) = MaskedImages(sae, whole, images, 1)(neuron, rows)
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(images[4]["image"]))
    assert MaskedImages(sae, encoder, images, 2)(neuron, []) == []
    assert isinstance(plain, Image.Image)
