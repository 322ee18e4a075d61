"""Inside a LLaVA: tokens by hand, answers that an edit changes, and the projector."""

import pytest
import torch
from steerable_models import llava, pictures, sae_for

from cbsae_hub.encoders import ImageTokenEncoder, LanguageEncoder, ResidualSite
from cbsae_hub.steering import LlavaSteerer

QUESTIONS = ["what?", "which of them is it?"]


@pytest.fixture(scope="module")
def parts():
    return llava()


def encoder(parts, layer=0, tokens="image", **options):
    return LanguageEncoder(*parts, layer, tokens, **{"max_new_tokens": 5, **options})


def questions():
    return list(zip(pictures(2), QUESTIONS))


@torch.no_grad()
def states(parts, picture, text, layer):
    """The hidden states of one conversation alone, as transformers records them, and its text."""
    model, processor = parts
    inputs = processor(images=picture, text=text, return_tensors="pt")
    return model(**inputs, output_hidden_states=True).hidden_states[layer + 1][0]


def test_rows_are_those_of_each_conversation_alone(parts):
    whole, image, prompt = (encoder(parts, tokens=name)(questions()) for name in ("all", "image", "prompt"))
    answers = encoder(parts, tokens="answer")
    said, rows = answers.answers(questions()), answers(questions())
    assert len(set(map(len, said))) > 1 or len({len(one) for one in prompt}) > 1, "the items are ragged"
    for number, (picture, question) in enumerate(questions()):
        text = f"USER: <image>\n{question} ASSISTANT:"
        v = states(parts, picture, text, 0)  # four image tokens after the six letters "USER: "
        torch.testing.assert_close(image[number], v[6:10], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(prompt[number], torch.cat([v[:6], v[10:]]), atol=1e-4, rtol=1e-4)
        assert len(whole[number]) == len(v) + len(rows[number])
        torch.testing.assert_close(whole[number][: len(v)], v, atol=1e-4, rtol=1e-4)


def test_answers_are_llavas_and_their_tokens_are_told_by_the_text(parts):
    answers = encoder(parts, tokens="answer")
    expected = LlavaSteerer(*parts, sae=sae_for()).generate(pictures(2), QUESTIONS, max_new_tokens=5)
    assert answers.answers(questions()) == expected
    for passage, said, rows in zip(answers.passages(questions()), expected, answers(questions())):
        letters = "".join(passage.text[start:stop] for start, stop in passage.spans)
        assert letters.strip() == said and len(passage.spans) == len(rows)
    inputs = answers.answered(questions())
    for row, (length, rows) in enumerate(zip(inputs.lengths, answers(questions()))):
        ids = inputs.ids[row : row + 1, :length]
        pixels = inputs.pixels[row : row + 1].to(parts[0].dtype)
        with torch.no_grad():
            v = parts[0](input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[1][0]
        torch.testing.assert_close(rows, v[length - len(rows) :], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_edit_changes_the_answer_and_detaches(parts):
    answers = encoder(parts, layer=-1, tokens="answer")
    plain = answers.answers(questions())
    passes = []

    def push(v):
        passes.append(v.shape[1])
        return v + 5 * torch.randn(v.shape[-1], generator=torch.Generator().manual_seed(0))

    with answers.site.edit(push):
        edited = answers.answers(questions())
    assert all(a != b for a, b in zip(plain, edited)) and set(passes[1:]) == {1}, "each new token passes by itself"
    assert answers.answers(questions()) == plain


@torch.no_grad()
def test_the_projectors_output_is_what_the_language_model_is_given(parts):
    projector = encoder(parts, tower="projector")
    features = parts[0].get_image_features(pixel_values=projector.prepare(pictures(2)).pixels).pooler_output
    assert projector.tokens_per_image == len(features[0]) == 4 and projector.grid == (2, 2)
    for one, expected in zip(projector(pictures(2)), features):
        torch.testing.assert_close(one, expected)
    with projector.site.edit(torch.zeros_like), ResidualSite.find(parts[0], 0, "language").capture() as seen:
        parts[0](**parts[1](images=pictures(1)[0], text="<image>", return_tensors="pt"))
    zeros = parts[0].model.language_model.layers[0](
        torch.zeros(1, 4, 32), position_embeddings=parts[0].model.language_model.rotary_emb(
            torch.zeros(1, 4, 32), torch.arange(4)[None]
        )
    )  # fmt: skip
    torch.testing.assert_close(seen.activations[0], zeros)


def test_questions_without_a_picture_have_words_only(parts):
    asked = [(None, "what is a dog?"), (pictures(1)[0], "what?")]
    prompt = encoder(parts, tokens="prompt")
    alone = states(parts, None, "USER: what is a dog? ASSISTANT:", 0)
    torch.testing.assert_close(prompt(asked)[0], alone, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="question 0 of the batch has no image"):
        encoder(parts)(asked)
    with pytest.raises(ValueError, match="holds the image token"):
        prompt.prepare([(None, "what is <image>?")])


@pytest.mark.parametrize("tower", ["language", "projector"])
def test_tokens_of_pictures_are_given_as_a_vision_encoder_gives_patches(parts, tower):
    inner = encoder(parts, tower=tower)
    pictured = ImageTokenEncoder(inner)
    expected = torch.stack(inner(pictures(3)))
    torch.testing.assert_close(pictured(pictures(3)), expected, atol=1e-4, rtol=1e-4)
    pixels = pictured.pixel_values(pictures(3))
    seen = pictured.site.read(lambda: pictured.model(pixels))
    assert seen.shape[1] == pictured.num_tokens
    torch.testing.assert_close(pictured.select(seen.float()), expected, atol=1e-4, rtol=1e-4)
    assert (pictured.grid, pictured.patch_rows, pictured.tokens_per_image) == ((2, 2), slice(0, None), 4)
    assert pictured.show(pictures(1, 20)[0], 8).size == (8, 8)
    with pytest.raises(ValueError, match="no image embedding"):
        pictured.require_embedding()
    with pytest.raises(ValueError, match="the encoder reads answer"):
        ImageTokenEncoder(encoder(parts, tokens="answer"))


def test_places_and_tokens_that_are_not_there_are_named(parts):
    with pytest.raises(ValueError, match="has 2 layers"):
        encoder(parts, layer=2)
    with pytest.raises(ValueError, match="has 1 layers"):
        encoder(parts, layer=1, tower="projector")
    with pytest.raises(ValueError, match="tokens must be image or random:n, got 'prompt'"):
        encoder(parts, tokens="prompt", tower="projector")
    facts = encoder(parts, tokens="answer").provenance()
    assert facts["preprocessing"]["max_new_tokens"] == 5 and facts["tower"] == "language"
    assert "prompt" not in encoder(parts, tower="projector").provenance()["preprocessing"]
