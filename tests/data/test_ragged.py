"""Stores of texts, with a number of tokens each: what comes back, what is damaged, and going on after a kill."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from steerable_models import tokenizer
from text_sae import text_encoder

from cbsae_hub import SAE
from cbsae_hub.data.activations import ActivationStore, StoreError
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.rows import RaggedRows
from cbsae_hub.data.texts import Texts, load_texts
from cbsae_hub.encoders import TextEncoder
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.trainer import SAETrainer

TEXTS = ["a red dog", "", "sea", "on", "", "a long prompt here", "cat", "eel"]


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(text_encoder(), tokenizer(16, ends=True), layer=0, repo_id="me/text")


def extract(folder, encoder, texts=TEXTS, **settings):
    settings = {"images_per_shard": 3, "batch_size": 2, "dtype": "float32", "source": {"id": "texts"}, **settings}
    return extract_activations(encoder, Texts(texts), folder, **settings)


def test_the_rows_of_a_store_are_the_texts_words_and_no_padding(tmp_path, encoder):
    store = extract(tmp_path, encoder)
    alone = [encoder([text])[0] for text in TEXTS]  # without anybody to be padded to
    assert store.lengths.tolist() == [min(14, len(text)) for text in TEXTS] == [len(v) for v in alone]
    torch.testing.assert_close(store.read(0, len(store)), torch.cat(alone), atol=1e-5, rtol=1e-5)
    owners = [store.image_of(row) for row in range(len(store))]
    assert owners == [text for text, v in enumerate(alone) for _ in v]
    assert store.manifest["tokens_per_image"] is None and store.manifest["schema_version"] == 2
    with pytest.raises(ValueError, match="different numbers of tokens"):
        _ = store.tokens_per_image
    store.verify()


def test_a_part_of_a_store_has_its_own_rows_and_labels(tmp_path, encoder):
    store = extract(tmp_path, encoder)
    alone = {text: encoder([TEXTS[text]])[0] for text in range(len(TEXTS))}
    for part in store.holdout(0.4, seed=1):
        torch.testing.assert_close(
            part.read(0, len(part)), torch.cat([alone[int(text)] for text in part.images]), atol=1e-5, rtol=1e-5
        )
    found = 0
    for rows, texts in store.labelled_batches(5, seed=0, epoch=0):
        for row, text in zip(rows, texts.tolist()):
            assert (alone[text] - row).abs().amax(1).min() < 1e-5
            found += 1
    assert found == len(store) // 5 * 5


def test_it_goes_on_where_it_was_killed_and_damage_is_named(tmp_path, encoder):
    expected = extract(tmp_path / "whole", encoder).read(0, 34)
    extract(tmp_path / "killed", encoder)
    (tmp_path / "killed" / "manifest.json").unlink()
    (tmp_path / "killed" / "shard-00001.safetensors").unlink()
    kept = (tmp_path / "killed" / "shard-00000.safetensors").stat().st_mtime_ns
    store = extract(tmp_path / "killed", encoder)
    assert torch.equal(store.read(0, 34), expected)
    assert (tmp_path / "killed" / "shard-00000.safetensors").stat().st_mtime_ns == kept, "whole shards are kept"
    path = tmp_path / "killed" / "shard-00000.safetensors"
    tensors = load_file(path)
    tensors["tokens"] = tensors["tokens"][::-1].copy()
    save_file(tensors, path, metadata={"sha256": "x", "tokens_sha256": "y"})
    with pytest.raises(StoreError, match="shard-00000.safetensors is damaged"):
        ActivationStore.open(tmp_path / "killed")


def test_an_sae_trains_on_texts_and_says_of_which_tower_it_is(tmp_path, encoder):
    store = extract(tmp_path / "store", encoder, TEXTS * 40, images_per_shard=100)
    config = SAETrainConfig(
        expansion=2, k=3, steps=20, batch_size=64, warmup_steps=5, heldout_fraction=0.2, dead_after_tokens=1000
    )
    trainer = SAETrainer(config, *store.holdout(0.2), tmp_path / "sae")
    trainer.train()
    sae = SAE.from_pretrained(tmp_path / "sae")
    assert (sae.tower, sae.tokens, sae.layer, sae.encoder_id) == ("text", "words", 0, "me/text")


def test_places_of_rows_by_brute_force():
    counts = np.array([2, 0, 3, 0, 0, 1, 4])
    stored = [(image, row) for image, count in enumerate(counts) for row in range(count)]
    images = np.array([1, 2, 5, 6])
    rows = RaggedRows(images, counts)
    expected = [
        (place, stored.index((image, row))) for place, image in enumerate(images) for row in range(counts[image])
    ]
    every = np.arange(len(rows))
    assert [*zip(rows.owners(every).tolist(), rows.stored(every).tolist())] == expected


def test_texts_come_from_lines_and_from_columns(tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\n  a cat \n", encoding="utf-8")
    assert load_texts(tmp_path / "prompts.txt").items(0, 5) == ["a dog", "a cat"]
    (tmp_path / "set").mkdir()
    pd.DataFrame({"Prompt": ["a", None, "c"], "number": [1, 2, 3]}).to_parquet(tmp_path / "set" / "train.parquet")
    texts = load_texts(tmp_path / "set", "train", "Prompt")
    assert (len(texts), texts.items(0, 3), texts.content(2)) == (3, ["a", "", "c"], ["c"])
    with pytest.raises(ValueError, match="no column 'caption' of texts; it has Prompt"):
        load_texts(tmp_path / "set", "train")
    with pytest.raises(ValueError, match="need a split"):
        load_texts(tmp_path / "set")
