"""What only a rebuild of Emoji World reads, which a machine that only runs tests may lack."""

import pytest

from training.emoji_world.glyphs import EMOJI_FONT, EMOJI_TEST


def require_emoji_files():
    """Skips a test where the emoji font or Unicode's list is missing."""
    for path in (EMOJI_FONT, EMOJI_TEST):
        if not path.is_file():
            pytest.skip(f"{path} is needed only to rebuild Emoji World (Debian: fonts-noto-color-emoji, unicode-data)")
