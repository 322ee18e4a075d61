"""The text encoder of a pipeline: its tokens by hand, an edit by hand, and no padding among what is read."""

from types import SimpleNamespace

import pytest
import torch
from steerable_models import clip, tokenizer
from text_sae import text_encoder

from cbsae_hub.encoders import EditError, ResidualSite, TextEncoder
from cbsae_hub.encoders.passages import Passage

TEXTS = ["a red dog", "", "sea", "a prompt that is longer than what the model reads"]


@pytest.fixture(scope="module")
def model():
    return text_encoder(3)


def encoder(model, **options):
    names = tokenizer(16, ends=True)
    names.pad_token = "</s>"  # as Stable Diffusion's: padding is known by the mask alone
    return TextEncoder(model, names, **options)


@torch.no_grad()
def states(model, texts):
    """Hidden states as transformers records them, of texts padded as a pipeline does."""
    ids = tokenizer(16, ends=True)(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    ids = ids.input_ids.masked_fill(ids.attention_mask == 0, 2)
    return model(ids, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(
    ("tokens", "places"),
    [
        ("words", lambda n: range(1, 1 + n)),
        ("text", lambda n: range(0, 2 + n)),
        ("end", lambda n: [1 + n]),
        ("all", lambda n: range(16)),
    ],
)
def test_the_rows_are_those_tokens_and_padding_is_none_of_them(model, tokens, places):
    expected = states(model, TEXTS)[2]
    rows = encoder(model, layer=-2, tokens=tokens)(TEXTS)
    for text, one, v in zip(TEXTS, rows, expected):
        kept = list(places(min(len(text), 14)))
        torch.testing.assert_close(one, v[kept], atol=1e-5, rtol=1e-5)
    fixed = encoder(model, tokens=tokens).tokens_per_image
    assert fixed in (None, len(rows[0])) and (fixed is None) == (tokens in ("words", "text"))


def test_random_tokens_are_words_and_depend_on_the_seed_alone(model):
    drawn = encoder(model, tokens="random:3")
    alone, together = drawn(["sea"], [7]), drawn(["a red dog", "sea"], [5, 7])
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=1e-5)
    words = encoder(model)(["sea"])[0]
    assert all((words - row).abs().amax(1).min() < 1e-5 for row in alone[0])
    with pytest.raises(ValueError, match="text 1 of the batch has no token"):
        drawn(["sea", ""])


def test_rows_stand_in_their_text(model):
    assert encoder(model).passages(["sea", ""]) == [Passage("sea", [(0, 1), (1, 2), (2, 3)]), Passage("", [])]


@torch.no_grad()
def test_an_edit_is_the_same_edit_made_by_hand_to_the_bit(model):
    text = encoder(model, layer=1)
    inputs = text.prepare(TEXTS)
    plain = text.run(inputs).last_hidden_state

    def shift(v):
        return v + torch.linspace(-3, 3, v.shape[-1])

    with text.site.edit(text.on_tokens(shift, inputs)):
        edited = text.run(inputs).last_hidden_state

    def by_hand(_block, _inputs, v):
        v = v.clone()
        for row, words in enumerate(TEXTS):
            for place in range(1, 1 + min(len(words), 14)):
                v[row, place] = shift(v[row, place])
        return v

    hook = model.encoder.layers[1].register_forward_hook(by_hand)
    expected = text.run(inputs).last_hidden_state
    hook.remove()
    assert torch.equal(edited, expected) and not torch.equal(edited, plain)
    assert torch.equal(text.run(inputs).last_hidden_state, plain), "it detaches"
    assert torch.equal(edited[1], plain[1]), "the empty text has no words"
    with pytest.raises(EditError, match="no forward pass"), text.site.edit(shift):
        pass


def test_towers_are_told_apart(model):
    pipeline, whole = SimpleNamespace(text_encoder=model, image_encoder=None), clip()
    assert ResidualSite.find(pipeline, -1, "text").block is model.encoder.layers[2]
    assert ResidualSite.find(whole, 0, "text").block is whole.text_model.encoder.layers[0]
    assert ResidualSite.find(whole, 0).block is whole.vision_model.encoder.layers[0]
    with pytest.raises(ValueError, match="no vision blocks found in CLIPTextModel"):
        ResidualSite.find(model, 0)
    with pytest.raises(ValueError, match="no blocks of a text encoder found in CLIPVisionModel"):
        ResidualSite.find(whole.vision_model, 0, "text")
    with pytest.raises(ValueError, match="tower must be one of vision, text, language, projector"):
        ResidualSite.find(whole, 0, "sound")


def test_encoders_are_loaded_from_a_clip_and_from_a_pipeline(model, tmp_path):
    whole, names = clip(), tokenizer(16, ends=True)
    whole.save_pretrained(tmp_path / "clip")
    names.save_pretrained(tmp_path / "clip")
    model.save_pretrained(tmp_path / "pipeline" / "text_encoder")
    names.save_pretrained(tmp_path / "pipeline" / "tokenizer")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    for folder, own in (("clip", whole.text_model), ("pipeline", model)):
        loaded = TextEncoder.from_pretrained(tmp_path / folder, layer=-1)
        torch.testing.assert_close(loaded(["sea"])[0], states(own, ["sea"])[-1][0, 1:4], atol=1e-5, rtol=1e-5)
        facts = loaded.provenance()
        assert (facts["tower"], facts["tokens"], facts["layer"]) == ("text", "words", loaded.num_layers - 1)
        assert facts["encoder_revision"].startswith("sha256:")
    with pytest.raises(ValueError, match=r"tokens must be words, text, end, all or random:n, got 'patches'"):
        TextEncoder.from_pretrained(tmp_path / "clip", layer=0, tokens="patches")
