import numpy as np
import pytest
from emoji_files import require_emoji_files

from training.emoji_world.glyphs import MIN_DISTANCE, _thumbnail, select_concepts


@pytest.fixture(scope="module")
def chosen():
    require_emoji_files()
    return select_concepts()


def test_rules_hold_for_what_is_chosen(chosen):
    concepts, glyphs = chosen
    names = [concept.name for concept in concepts]
    assert 400 <= len(names) <= 600 and len(set(names)) == len(names)
    assert all(" " not in name and "clock" not in name for name in names)
    assert not {f"{name}s" for name in names} & set(names)
    assert {concept.group for concept in concepts}.isdisjoint({"Flags", "Symbols"})
    thumbnails = np.stack([_thumbnail(glyph) for glyph in glyphs[::7]])
    gaps = np.sqrt(((thumbnails[:, None] - thumbnails) ** 2).mean(-1)) + np.eye(len(thumbnails))
    assert gaps.min() > MIN_DISTANCE
    assert {"pizza", "dog", "tiger", "guitar"} <= set(names)


def test_shipped_vocabulary_is_what_the_rules_give(chosen):
    from training.emoji_world.backgrounds import BACKGROUNDS
    from training.emoji_world.paths import HUB

    shipped = (HUB / "emoji-images" / "concepts.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert shipped == [*(concept.name for concept in chosen[0]), *BACKGROUNDS]


def test_a_missing_font_says_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="unicode-data|fonts-noto-color-emoji"):
        select_concepts(tmp_path / "none.txt", tmp_path / "none.ttf")
