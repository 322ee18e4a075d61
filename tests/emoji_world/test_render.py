import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from training.emoji_world.backgrounds import BACKGROUNDS, COLOURS, BackgroundBank
from training.emoji_world.render import CANONICAL, NO_OBJECT, STYLES, SceneRenderer, SceneSpec, canonical_pictures


@pytest.fixture(scope="module")
def renderer(atlas):
    return SceneRenderer(atlas, seed=7)


def test_batches_depend_on_seed_and_index_alone(atlas, renderer):
    spec = SceneSpec(style_share=0.3, word_share=0.3)
    first = renderer.batch(3, 40, spec)
    renderer.batch(4, 17, spec)
    again = SceneRenderer(atlas, seed=7).batch(3, 40, spec)
    assert torch.equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not torch.equal(first.pixels, SceneRenderer(atlas, seed=8).batch(3, 40, spec).pixels)


def test_boxes_surround_the_pixels_that_the_object_changes(renderer):
    """Independent of masks: everything that is not the background's one colour belongs to the only object."""
    scenes = renderer.batch(0, 30, SceneSpec(objects=(1,)), backgrounds=np.full(30, BACKGROUNDS.index("white")))
    for i in range(30):
        pixels = scenes.pixels[i].flatten(1)
        corners = scenes.pixels[i][:, [0, 0, -1, -1], [0, -1, 0, -1]]  # an object covers two of them at most
        background = corners.mode(dim=1).values if (corners[:, 0] == corners[:, 1]).all() else corners[:, 2]
        changed = (pixels != background[:, None]).any(0).view(64, 64)
        rows, columns = torch.nonzero(changed.any(1)).ravel(), torch.nonzero(changed.any(0)).ravel()
        box = [float(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
        # A box holds what is mostly opaque; the changed pixels include one soft pixel around it.
        np.testing.assert_allclose(scenes.boxes[i, 0], box, atol=2)


def test_plain_scene_is_its_background_colour_where_no_object_is(renderer):
    scenes = renderer.batch(1, 64, SceneSpec(objects=(1,)))
    checked = 0
    for i in np.flatnonzero(scenes.backgrounds < len(COLOURS)):
        x0, y0, x1, y1 = scenes.boxes[i, 0].astype(int)
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2] = False
        colours = scenes.pixels[i][:, outside].float()
        assert colours.std(1).max() == 0
        nominal = torch.tensor(COLOURS[BACKGROUNDS[scenes.backgrounds[i]]]).float()
        assert (colours[:, 0] - nominal).abs().max() <= 18.5
        checked += 1
    assert checked > 20


def test_shares_and_counts_follow_the_spec(renderer):
    scenes = renderer.batch(2, 2000, SceneSpec(objects=(1, 3), style_share=0.25, word_share=0.1))
    counts = (scenes.concepts != NO_OBJECT).sum(1)
    assert set(counts) == {1, 3}
    assert abs((scenes.styles > 0).mean() - 0.25) < 0.04
    assert abs((scenes.words != NO_OBJECT).mean() - 0.1) < 0.03
    labelled = scenes.words != NO_OBJECT
    assert not (scenes.concepts[labelled] == scenes.words[labelled, None]).any()
    for row in scenes.concepts[counts == 3]:
        assert len(set(row)) == 3


def test_a_label_never_names_a_given_object(renderer):
    concepts = np.tile(np.arange(16)[:, None], (20, 3))
    concepts[:, 1] = (concepts[:, 0] + 1) % 16
    concepts[:, 2] = NO_OBJECT
    scenes = renderer.batch(9, 320, SceneSpec(word_share=1.0), concepts=concepts)
    assert (scenes.words != NO_OBJECT).all()
    assert not (scenes.words[:, None] == concepts).any()


def test_styles_do_what_their_names_say(renderer):
    fixed = {"backgrounds": np.full(20, BACKGROUNDS.index("stripes"))}
    plain = renderer.batch(5, 20, SceneSpec(), styles=np.zeros(20, int), **fixed).pixels.float()
    drawn = {
        style: renderer.batch(5, 20, SceneSpec(), styles=np.full(20, STYLES.index(style)), **fixed).pixels.float()
        for style in STYLES[1:]
    }
    grey = drawn["greyscale"]
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    luma = plain[:, 0] * 0.299 + plain[:, 1] * 0.587 + plain[:, 2] * 0.114
    torch.testing.assert_close(grey[:, 0], luma, atol=1.01, rtol=0)
    blocks = drawn["pixelated"].unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert (blocks.amax(-1) == blocks.amin(-1)).all()
    torch.testing.assert_close(
        blocks[..., 0], plain.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).mean(-1), atol=1.01, rtol=0
    )
    smooth = gaussian_filter(plain.numpy(), (0, 0, 1.5, 1.5), radius=(0, 0, 4, 4), mode="nearest")
    np.testing.assert_allclose(drawn["blurred"].numpy(), smooth, atol=1.01)
    assert drawn["sketch"].median() > 200


def _contents(concepts, background="grass", style="plain"):
    """Fixed parts of scenes that show these concepts, one row a scene."""
    rows = np.array([list(row) + [NO_OBJECT] * (3 - len(row)) for row in concepts])
    n = len(rows)
    backgrounds, styles = np.full(n, BACKGROUNDS.index(background)), np.full(n, STYLES.index(style))
    return {"concepts": rows, "backgrounds": backgrounds, "styles": styles}


def test_canonical_picture_tells_of_the_objects_and_not_of_their_order(atlas):
    contents = [(3,), (9,), (3, 9), (9, 3), (1, 2, 3), (3, 1, 2), ()]
    pictures = canonical_pictures(atlas, **_contents(contents))
    assert torch.equal(pictures[2], pictures[3]) and torch.equal(pictures[4], pictures[5])
    assert len(pictures.flatten(1).unique(dim=0)) == 5
    pictures.zero_()
    assert canonical_pictures(atlas, **_contents(contents)).max() > 0  # the backgrounds were not drawn upon


def test_canonical_objects_are_upright_at_their_places_on_the_first_crop(atlas):
    """Sprites of the test world are opaque squares of one colour."""
    contents = [(5,), (11, 4), (7, 2, 12), ()]
    tile = BackgroundBank(3)._tiles[BACKGROUNDS.index("stripes") - len(COLOURS), 0, :, :64, :64]
    for concepts, picture in zip(contents, canonical_pictures(atlas, **_contents(contents, background="stripes"))):
        expected, soft = tile.clone(), torch.zeros(64, 64, dtype=torch.bool)
        for concept, (x, y, size) in zip(sorted(concepts), CANONICAL.get(len(concepts), ())):
            colour = atlas.glyphs[0][concept, :3, 32, 32]
            rows, columns = (slice(centre - size // 2, centre + size // 2) for centre in (y, x))
            expected[:, rows, columns] = colour[:, None, None]
            soft[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1] = True
            soft[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = False
        difference = (picture.float() - expected * 255).abs().amax(0)
        assert difference[~soft].max() <= 1


def test_canonical_picture_keeps_the_style_and_the_colour_without_jitter(atlas):
    plain, grey = (
        canonical_pictures(atlas, **_contents([(c,) for c in range(8)], "red", style))
        for style in ("plain", "greyscale")
    )
    assert (plain[:, :, 0, 0] == torch.tensor(COLOURS["red"])).all()
    luma = (plain.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    torch.testing.assert_close(grey[:, 1].float(), luma, atol=1.01, rtol=0)
