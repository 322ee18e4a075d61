import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_hub import CONCEPTS, Pictures, make_bottleneck, make_hub, make_pack

from cbsae_hub.neurons.table import PackError
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.scoring.card_pictures import choose, write_pictures


def test_neurons_are_spread_from_the_best_name_to_the_worst():
    frame = pd.DataFrame(
        {"neuron": range(11), "kind": "sae", "status": "alive", "score": [5.0, 3, 9, 1, 7, 0, 2, 8, 4, 6, 10]}
    )
    assert choose(frame, 3)["score"].tolist() == [10.0, 5.0, 0.0]
    frame.loc[10, "status"] = "dead"
    frame.loc[:1, "kind"] = "cb"
    chosen = choose(frame, 4)
    assert chosen["kind"].tolist() == ["cb", "cb", "sae", "sae"]
    assert chosen["score"].tolist() == [5.0, 3.0, 9.0, 0.0]
    assert len(choose(frame, 100)) == 10


def test_pictures_of_a_pack(tmp_path):
    sae, encoder, judge, _ = make_hub(tmp_path)
    cb = make_bottleneck(sae, encoder, tmp_path)
    folder = tmp_path / "bottleneck"
    with pytest.raises(PackError):
        write_pictures(folder)
    scorer = NeuronScorer(cb, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    make_pack(scorer, Pictures(), folder, source={"id": "pictures", "split": "all"})
    write_pictures(folder)
    sheet = np.asarray(Image.open(folder / "examples.webp").convert("RGB"))
    assert sheet.std() > 20 and not (folder / "quadrants.png").exists()  # no steerability was measured
    assert sheet.shape[:2] == (6 * 225, 960)  # two concept neurons, four others
