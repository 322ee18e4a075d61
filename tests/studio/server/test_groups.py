"""Groups of pictures, against an encoder in which the neurons are suppressed; a tiny random CLIP."""

import pytest
import torch
from own_model import make_clip_model
from small_hub import Pictures

from cbsae_hub.data.images import load_images
from cbsae_hub.metrics import find_features
from cbsae_hub.steering import suppress
from cbsae_hub.studio.server.groups import MAX_SET, PER_GROUP, Groups, labels_of
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving

CLASSES = {"light": ["a light", "pale"], "dark": ["dark"]}
TAU = 0.02


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    return Serving([make_clip_model(tmp_path_factory.mktemp("clip"))])


@pytest.fixture(scope="module")
def model(serving):
    return serving.first


def labelled(model, split):
    """Rows of a split by group, class and side, those that are compared; and the answers about all of its pictures."""
    table = load_images("pictures", split, beside=model.model_id)
    light = [colour in ("white", "green") for colour in table["colour"]]
    groups = [[row for row in range(len(table)) if light[row] == (kind == "light") and table["side"][row] == side]
              for kind in CLASSES for side in ("left", "right")]  # fmt: skip
    return table["image"][:], [rows[:PER_GROUP] for rows in groups]


def right_answers(model, images, groups):
    """Hits per group of pictures by the whole encoder, one text at a time."""
    weights = []
    for texts in CLASSES.values():
        unit = [torch.nn.functional.normalize(model.clip.embed_words([text])[0], dim=0) for text in texts]
        weights.append(torch.nn.functional.normalize(torch.stack(unit).mean(0), dim=0))
    answers = (model.encoder.embed(images) @ torch.stack(weights).T).argmax(1)
    return tuple(int((answers[rows] == place // 2).sum()) for place, rows in enumerate(groups))


@pytest.mark.parametrize("without", [False, True])
def test_labelled_pictures_as_the_encoder_answers(serving, model, without):
    reading = serving.groups.samples(model, labels_of(model), without)
    images, groups = labelled(model, "find")
    rows = sorted(row for rows in groups for row in rows)
    latents = model.sae.encode(model.encoder([images[row] for row in rows])).mean(1)
    right = torch.tensor([any(row in rows for rows in groups[1::2]) for row in rows])
    expected = find_features(latents, right ^ without, TAU).tolist()
    features, answers = serving.groups.suppress(model, reading, TAU)
    assert features == expected and answers.off == len(features) > 2
    images, groups = labelled(model, "test")
    assert reading.names == ("light, no right", "light, right", "dark, no right", "dark, right")
    assert reading.before.hits == right_answers(model, images, groups)
    assert reading.before.images == tuple(map(len, groups))
    with suppress(model.encoder, model.sae, features):
        assert answers.after.hits == right_answers(model, images, groups)
    fewer, partly = serving.groups.suppress(model, reading, TAU, frozenset(features[1:]))
    assert fewer == features and partly.off == 1
    with suppress(model.encoder, model.sae, features[:1]):
        assert partly.after.hits == right_answers(model, images, groups)
    assert serving.groups.suppress(model, reading, 1e6)[1].after == reading.before


def test_as_many_random_neurons_that_fire_are_the_control(serving, model):
    reading = serving.groups.samples(model, labels_of(model))
    _, answers = serving.groups.suppress(model, reading, 0.5)
    firing = set(reading.firing.tolist())
    assert answers.random is not None and answers.off < len(firing) / 2
    _, most = serving.groups.suppress(model, reading, -1e6)
    assert most.off == len(model.pack.neurons) and most.random is None, "so many others do not fire"


def test_two_sets_of_a_visitor(serving, model):
    pictures = Pictures(30)
    first = [image for image, side in zip(pictures["image"], pictures.sides) if side == "right"]
    second = [image for image, side in zip(pictures["image"], pictures.sides) if side == "left"]
    reading = serving.groups.sets(model, first, second, ["dark", "a light", "dark", "q"])
    latents = torch.cat([model.sae.encode(model.encoder([image])).mean(1) for image in [*first, *second]])
    side = torch.tensor([True] * len(first) + [False] * len(second))
    features, answers = serving.groups.suppress(model, reading, TAU)
    assert features == find_features(latents, side, TAU).tolist() != []
    texts = torch.nn.functional.normalize(model.clip.embed_words(["dark", "a light", "q"]), dim=-1)

    def hits():
        said = [(model.encoder.embed(part) @ texts.T).argmax(1) for part in (first, second)]
        return int((said[0] == 0).sum()), int((said[1] == 1).sum())

    assert reading.before.hits == hits() and reading.before.images == (len(first), len(second))
    with suppress(model.encoder, model.sae, features):
        assert answers.after.hits == hits()
    silent = serving.groups.sets(model, first, second, [])
    assert silent.before is None and serving.groups.suppress(model, silent, TAU)[1].after is None


def test_bad_sets_get_a_sentence(serving, model, monkeypatch):
    picture = Pictures(1)["image"]
    with pytest.raises(Refused, match=f"Each set needs 1 to {MAX_SET} pictures; these have 1 and 0"):
        serving.groups.sets(model, picture, [], [])
    with pytest.raises(Refused, match="CLIP has to choose"):
        serving.groups.sets(model, picture, picture, ["dog", "dog"])
    record = labels_of(model)
    with pytest.raises(Refused, match="cannot be had here: .*nowhere"):
        Groups().samples(model, {**record, "find": "nowhere"})
    monkeypatch.setattr(model, "worked", {})
    with pytest.raises(Refused, match="no labelled pictures: bring two sets"):
        labels_of(model)
