"""What a text tower does not get to read of texts is said."""

import open_clip
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from cbsae_hub.encoders.prompts import cutting, embed_prompts, fill, tell_unread

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"]


def letters(side="right"):
    """A tokenizer of words of one letter each, with the calls of open_clip's; unbounded, as where files say nothing."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", padding_side=side)


@pytest.mark.parametrize("tokenize", [cutting(letters()), cutting(letters("left"))])
def test_texts_that_are_cut_and_texts_that_are_then_the_same_are_named(tokenize, caplog):
    texts = ["a b c d e", "a b c d e f", "a b c d e g", "b", "h h h h h h h"]
    tell_unread(tokenize, 0, 5, texts, ["{}"], "lab/judge")
    cut, same = (record.getMessage() for record in caplog.records)
    assert cut == (
        "lab/judge reads the first 5 tokens of a text: 3 of 5 are longer, and what comes later does not count: "
        "'a b c d e f', 'a b c d e g', 'h h h h h h h'"
    )
    assert same == (
        "lab/judge does not tell apart 3 of 5 texts, which share embeddings: "
        "'a b c d e' = 'a b c d e f' = 'a b c d e g'"
    )


def test_what_fits_is_not_spoken_of(caplog):
    tell_unread(cutting(letters()), 0, 5, ["a b c d e", "b", "b"], ["{}"], "me")
    assert not caplog.records, "the same text twice is nobody's fault"


def test_unknown_words_share_an_embedding(caplog):
    tell_unread(cutting(letters()), 0, 5, ["zebra", "yak", "a"], ["{}"], "me")
    assert caplog.messages == ["me does not tell apart 2 of 3 texts, which share embeddings: 'zebra' = 'yak'"]


def test_templates_count(caplog):
    tell_unread(cutting(letters()), 0, 5, ["a b", "a c"], ["{}", "d d d {}"], "me")
    assert not caplog.records
    tell_unread(cutting(letters()), 0, 5, ["a b", "a c"], ["{}", "d d d d {}"], "me")
    assert len(caplog.messages) == 1, "one template tells them apart"
    assert "2 of 2 are longer" in caplog.messages[0]
    caplog.clear()
    tell_unread(cutting(letters()), 0, 5, ["a b", "a c"], ["d d d d {}"], "me")
    assert "does not tell apart 2 of 2 texts" in caplog.messages[1]


def test_many_are_counted_and_the_first_named(caplog):
    texts = [f"{letter} b c d e f" for letter in "abcdefgh"]
    tell_unread(cutting(letters()), 0, 5, texts, ["{}"], "me")
    assert caplog.messages[0].endswith("'a b c d e f', 'b b c d e f', 'c b c d e f' and 5 more")


def test_clips_own_tokenizer(caplog):
    tokenize = open_clip.SimpleTokenizer()
    fits, long = " ".join(["cat"] * 75), " ".join(["cat"] * 76)
    tell_unread(tokenize, 0, 77, [fits, "dog", "Dog", "Dog!"], ["{}"], "openai")
    assert not caplog.records, "nobody means another thing by a capital letter"
    tell_unread(tokenize, 0, 77, [fits, long, "dog", " dog"], ["{}"], "openai")
    assert "1 of 4 are longer" in caplog.messages[0] and "cat cat ... " in caplog.messages[0]
    assert "does not tell apart 4 of 4 texts" in caplog.messages[1] and "'dog' = ' dog'" in caplog.messages[1]


def test_templates_are_filled():
    assert fill("a {} of {curly}", ["{x}"]) == ["a {x} of {curly}"]
    with pytest.raises(ValueError, match="needs one {} for the text, got 'photo'"):
        fill("photo", ["cat"])


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {**TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 6, "bos_token_id": 1, "eos_token_id": 2}
VISION = {**TOWER, "image_size": 16, "patch_size": 8}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_text_towers_positions_bound_what_it_reads(kind, caplog):
    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config={**TEXT, "pad_token_id": 0}, vision_config=VISION)).eval()
    else:
        model = SiglipModel(SiglipConfig(text_config={**TEXT, "pad_token_id": 0}, vision_config=VISION)).eval()
    tokenizer = letters()
    assert tokenizer.model_max_length > 1e6
    found = embed_prompts(model, tokenizer, ["a b c d e f", "a b c d e f g", "b"], ["{}"], "lab/clip", batch=2)
    assert "lab/clip reads the first 6 tokens of a text: 1 of 3" in caplog.messages[0]
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 1e-3
    ids = tokenizer("a b c d e f", return_tensors="pt").input_ids
    own = model.get_text_features(input_ids=ids).pooler_output[0].detach()
    torch.testing.assert_close(found[0], own / own.norm())
    tokenizer.model_max_length = 4
    embed_prompts(model, tokenizer, ["a b c d e f"], ["{}"], "lab/clip")
    assert "reads the first 4 tokens" in caplog.messages[-1], "what the tokenizer cuts off counts too"
