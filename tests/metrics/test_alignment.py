import numpy as np
import pandas as pd
import pytest

from cbsae_hub.metrics.alignment import human_alignment, read_pairs

ROWS = """k_x,k_y,R_user,MS_x_dino,MS_y_dino,MS_x_clip,MS_y_clip
3,7,3,0.9,0.2,0.5,0.6
8,2,2,0.35,0.05,0.5,0.5
4,5,4,0.1,0.15,0.9,0.8
6,1,6,0.5,0.5,0.1,0.9
9,0,0,0.0,1.0,0.7,0.6
"""


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(ROWS)
    return path


def test_by_hand(pairs):
    """By dino: right; wrong by 0.3; wrong by 0.05; a tie, which goes to the second and is wrong; right by 1."""
    found = human_alignment(read_pairs(pairs, "dino"))
    assert found.overall == pytest.approx(2 / 5)
    assert found.bins["pairs"].tolist() == [2, 0, 0, 1, 0, 0, 0, 1, 0, 1]
    expected = [0, np.nan, np.nan, 0, np.nan, np.nan, np.nan, 1, np.nan, 1]
    np.testing.assert_allclose(found.bins["alignment"], expected)
    assert found.bins["low"].iloc[3] == 0.3 and found.bins["high"].iloc[3] == 0.4
    assert human_alignment(read_pairs(pairs, "clip")).overall == pytest.approx(2 / 5)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_pairs_that_excel_saved_are_read(pairs, encoding):
    expected = read_pairs(pairs, "dino")
    pairs.write_bytes(ROWS.replace("\n", "\r\n").encode(encoding))
    pd.testing.assert_frame_equal(read_pairs(pairs, "dino"), expected)


def test_many_pairs_are_counted_as_a_loop_counts_them():
    rng = np.random.default_rng(0)
    x, y, people = rng.random(300), rng.random(300), rng.random(300) < 0.5
    pairs = pd.DataFrame({"MS_x": x, "MS_y": y, "k_x": 1, "R_user": np.where(people, 1, 2)})
    found = human_alignment(pairs.sample(frac=1, random_state=0))
    agree = (x > y) == people
    assert found.overall == pytest.approx(agree.mean())
    for row in found.bins.itertuples():
        inside = (np.abs(x - y) >= row.low) & (np.abs(x - y) < row.high)
        assert row.pairs == inside.sum()
        assert row.alignment == pytest.approx(agree[inside].mean() if inside.any() else np.nan, nan_ok=True)


def test_no_pairs_are_undefined():
    empty = pd.DataFrame({"MS_x": [], "MS_y": [], "k_x": [], "R_user": []}, dtype=float)
    assert np.isnan(human_alignment(empty).overall)


def test_what_is_wrong_with_a_file_is_said(pairs, tmp_path):
    with pytest.raises(ValueError, match="lacks the columns MS_x_siglip, MS_y_siglip"):
        read_pairs(pairs, "siglip")
    for old, new, message in (("8,2,2", "8,2,9", "row 2 the choice"), ("0.9,0.2", ",0.2", "row 1 has a value")):
        bad = tmp_path / "bad.csv"
        bad.write_text(ROWS.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_pairs(bad, "dino")
    with pytest.raises(OSError, match="nowhere.csv"):
        read_pairs("nowhere.csv", "dino")
