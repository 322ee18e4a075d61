"""LLaVA, steered and asked: compared with hidden states, projector and language model run by hand."""

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from steerable_models import (
    VISION,
    blocks_by_hand,
    cbsae_for,
    edited_by_hand,
    embedded,
    in_step,
    in_threads,
    llava,
    pictures,
    sae_for,
)
from torch.testing import assert_close

from cbsae_hub.encoders.site import EditError, find_blocks
from cbsae_hub.models import folder_revision
from cbsae_hub.steering import DiffMean, Edit, LlavaSteerer, RandomDirection, Steering, apply
from cbsae_hub.steering.tower import Stopped

TEMPLATE = (
    "{% for message in messages %}<s>user: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} says:{% endif %}"
)
NEW = 6


@pytest.fixture(params=["clip", "dinov2"])
def tower(request):
    """The family of the vision tower."""
    return request.param


@pytest.fixture(params=["cold", "warm"])
def steerer(request, tower):
    model, processor = llava(tower=tower)
    if request.param == "warm":  # transformers has installed its own hooks
        model.get_image_features(pixel_values=torch.zeros(1, 3, 16, 16))
    return LlavaSteerer(model, processor, sae_for())


@torch.no_grad()
def stream_by_hand(model, processor, image):
    """What leaves block 2 of the tower, which vision_feature_layer=-2 of 4 blocks means."""
    tower = model.model.vision_tower
    pixels = processor.image_processor(images=[image], return_tensors="pt").pixel_values
    return blocks_by_hand(find_blocks(tower)[0][:3], embedded(tower, pixels))[0]


@torch.no_grad()
def answer_by_hand(model, processor, stream, prompt, new=NEW, pick=lambda logits: int(logits.argmax())):
    """One token at a time, without a cache."""
    features = model.model.multi_modal_projector(stream[1:])
    text = f"USER: {'<image>' * len(features)}\n{prompt} ASSISTANT:"
    ids = processor.tokenizer(text, return_tensors="pt").input_ids[0]
    embeddings = model.model.language_model.embed_tokens(ids)
    embeddings[ids == processor.image_token_id] = features
    tokens = []
    while len(tokens) < new:
        hidden = model.model.language_model(inputs_embeds=embeddings[None]).last_hidden_state
        tokens.append(pick(model.lm_head(hidden)[0, -1]))
        if tokens[-1] == processor.tokenizer.eos_token_id:
            break
        embeddings = torch.cat([embeddings, model.model.language_model.embed_tokens(torch.tensor(tokens[-1:]))])
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


CASES = {
    "set": ([(3, 9.0, "set")], {}),
    "add": ([(3, 9.0, "add")], {}),
    "scale": ([(n, 6.0, "scale") for n in range(0, 32, 2)], {}),
    "suppress": ([(n, -8.0, "set") for n in (1, 5, 6)], {}),
    "several": ([(3, 9.0, "set"), (8, -5.0, "add"), (11, 0.0, "scale")], {}),
    "isolate": ([(3, 50.0, "set")], {"isolate": True}),
    "keep_error": ([(3, 12.0, "set")], {"keep_error": True}),
    "reconstruction": ([], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_hand_made_hidden_states(steerer, case):
    edits, options = CASES[case]
    images, model, processor = pictures(3), steerer.model, steerer.processor
    steering = Steering([Edit(*edit) for edit in edits], **options)
    answers = steerer.generate(images, "What is this?", steering, max_new_tokens=NEW)
    streams = [stream_by_hand(model, processor, image) for image in images]
    steered = [edited_by_hand(steerer.tower.sae, stream, edits, **options) for stream in streams]
    features = torch.stack([model.model.multi_modal_projector(stream[1:]) for stream in steered])
    assert_close(steerer.image_features(images, steering), features, atol=1e-4, rtol=1e-4)
    assert answers == [answer_by_hand(model, processor, stream, "What is this?") for stream in steered]
    plain = steerer.generate(images, "What is this?", max_new_tokens=NEW)
    assert plain == [answer_by_hand(model, processor, stream, "What is this?") for stream in streams]
    assert answers != plain and any(answers)


@pytest.mark.parametrize("case", ["set", "isolate"])
def test_pictures_need_not_be_square(case):
    """24 x 16 pixels are 3 rows of 2 patches: six image tokens."""
    model, processor = llava(tower="dinov2")
    processor.image_processor.size = {"height": 24, "width": 16}
    processor.image_processor.do_center_crop = False
    steerer = LlavaSteerer(model, processor, sae_for())
    edits, options = CASES[case]
    images, steering = pictures(2), Steering([Edit(*edit) for edit in edits], **options)
    streams = [edited_by_hand(steerer.tower.sae, stream_by_hand(model, processor, i), edits, **options) for i in images]
    features = torch.stack([model.model.multi_modal_projector(stream[1:]) for stream in streams])
    assert features.shape[1] == 6
    assert_close(steerer.image_features(images, steering), features, atol=1e-4, rtol=1e-4)
    assert_close(steerer.features_of(steerer.activations(images)), steerer.image_features(images))
    expected = [answer_by_hand(model, processor, stream, "What?") for stream in streams]
    assert steerer.generate(images, "What?", steering, NEW) == expected


def test_transformers_own_generate_agrees(steerer):
    images, model, processor = pictures(2), steerer.model, steerer.processor
    steering = Steering([Edit(3, 50.0)], isolate=True)
    text = "USER: <image>\nWhat is this? ASSISTANT:"
    inputs = processor(images=images, text=[text] * 2, return_tensors="pt")
    row = steerer.tower.sae.b_dec + 50 * steerer.tower.sae.W_dec[3]
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda _, args: row.expand_as(args[0]))
    tokens = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[:, inputs.input_ids.shape[1] :]
    hook.remove()
    expected = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    assert steerer.generate(images, "What is this?", steering, NEW) == expected


def test_a_steering_and_a_prompt_per_image_equal_one_by_one(steerer):
    images = pictures(5)
    steerings = [
        Steering([Edit(3, 9.0)]),
        None,
        Steering([Edit(5, 40.0)], isolate=True, tokens="patches"),
        DiffMean(torch.arange(16.0), 7.0),
        RandomDirection(Steering([Edit(5, 40.0)]), seed=1),
    ]
    prompts = ["What?", "How many things are there?", "Say it.", "x", "A line, please."]
    one_by_one = [steerer.generate([i], [p], s, NEW)[0] for i, p, s in zip(images, prompts, steerings)]
    for batch in (2, 16):
        assert steerer.generate(images, prompts, steerings, NEW, batch) == one_by_one
    assert len(set(one_by_one)) > 2


def test_other_prompts_and_images_give_other_answers(steerer):
    answers = steerer.generate(pictures(1) * 3, ["What?", "How many?", "Why is that?"], max_new_tokens=NEW)
    assert len(set(answers)) > 1
    assert len(set(steerer.generate(pictures(4), "What?", max_new_tokens=NEW))) > 1


def test_strength_zero_with_the_error_kept_is_no_steering(steerer):
    images = pictures(2)
    for edit in (Edit(3, 0.0, "add"), Edit(3, 1.0, "scale")):
        steering = Steering([edit], keep_error=True)
        assert torch.equal(steerer.image_features(images, steering), steerer.image_features(images))
        assert steerer.generate(images, "What?", steering, NEW) == steerer.generate(images, "What?", None, NEW)


def test_nothing_stays_behind(steerer):
    before = steerer.image_features(pictures(2))
    steerer.image_features(pictures(2), Steering([Edit(3, 9.0)]))
    with pytest.raises(EditError):
        steerer.image_features(pictures(2), Steering([Edit(3, 9.0)], tokens="cls"))
    assert torch.equal(steerer.image_features(pictures(2)), before)


def test_steering_what_llava_does_not_read_is_an_error(steerer):
    steering = [Steering([Edit(3, 9.0)]), Steering([Edit(3, 9.0)], tokens="cls")]
    with pytest.raises(EditError, match="no effect.*of image 1 as it was"):
        steerer.generate(pictures(2), "What?", steering)


def test_conversation_is_the_models_own():
    steerer = LlavaSteerer(*llava(chat_template=TEMPLATE), sae_for())
    assert steerer.conversation("What?") == "<s>user: <image> What? says:"
    assert LlavaSteerer(*llava(), sae_for()).conversation("What?") == "USER: <image>\nWhat? ASSISTANT:"
    assert steerer.generate(pictures(1), "What?", max_new_tokens=NEW) != [""]


# ------------------------------------------------------------------------------------------------- sampling


def test_sampling_depends_on_the_seed_alone():
    steerer = LlavaSteerer(*llava(), sae_for())
    images, seeds = pictures(1) * 6, [5, 6, 7, 5, 8, 6]
    answers = steerer.generate(images, "What?", None, NEW, temperature=3.0, seeds=seeds)
    assert answers[0] == answers[3] and answers[1] == answers[5] and len(set(answers)) == 4
    torch.manual_seed(99)
    assert steerer.generate(images, "What?", None, NEW, batch=4, temperature=3.0, seeds=seeds) == answers
    assert steerer.generate(images[:1], "What?", None, NEW, temperature=3.0, seeds=[7]) == answers[2:3]
    greedy = steerer.generate(images[:1], "What?", None, NEW)
    assert steerer.generate(images[:1], "What?", None, NEW, temperature=1e-4, seeds=[1]) == greedy


def test_samples_have_the_probabilities_of_the_softmax():
    model, processor = llava()
    steerer = LlavaSteerer(model, processor, sae_for())
    seen = {}
    answer_by_hand(
        model,
        processor,
        stream_by_hand(model, processor, pictures(1)[0]),
        "x",
        1,
        lambda x: seen.setdefault("x", x).argmax(),
    )
    count = 2000
    features = steerer.image_features(pictures(1)).expand(count, -1, -1)
    answers = steerer.answer(features, ["x"] * count, 1, temperature=2.0, seeds=range(count))
    probabilities = (seen["x"] / 2).softmax(0)
    for token in probabilities.topk(5).indices.tolist():
        text = processor.tokenizer.decode([token], skip_special_tokens=True).strip()
        if text:
            p = float(probabilities[token])
            assert abs(answers.count(text) / count - p) < 4 * (p * (1 - p) / count) ** 0.5


# --------------------------------------------------------------------------------------------------- threads


def test_threads_do_not_steer_each_other(tower):
    model, processor = llava(tower=tower)
    steerer, images = LlavaSteerer(model, processor, sae_for()), pictures(2)
    steerings = [Steering([Edit(3, 9.0)]), Steering([Edit(7, 60.0)], isolate=True), Steering([Edit(1, 5.0, "add")])]

    def answer(steering):
        return steerer.image_features(images, steering), steerer.generate(images, "What?", steering, NEW)

    expected = [answer(steering) for steering in steerings]
    with in_step(find_blocks(model)[0], len(steerings)):
        found = in_threads([lambda steering=steering: answer(steering) for steering in steerings])
    for (features, answers), (expected_features, expected_answers) in zip(found, expected):
        assert torch.equal(features, expected_features) and answers == expected_answers


def test_a_thread_without_steering_is_not_steered(tower):
    model, processor = llava(tower=tower)
    steerer, images = LlavaSteerer(model, processor, sae_for()), pictures(2)
    plain, steering = steerer.image_features(images), Steering([Edit(3, 9.0)])
    steered = steerer.image_features(images, steering)
    with in_step(find_blocks(model)[0], 2):
        found = in_threads(
            [
                lambda: steerer.image_features(images, steering),  # two passes, the second steered
                lambda: [steerer.image_features(images) for _ in range(2)],
            ]
        )
    assert torch.equal(found[0], steered)
    assert torch.equal(found[1][0], plain) and torch.equal(found[1][1], plain)


# ---------------------------------------------------------------------------------------- loading and layers


def test_from_pretrained_is_the_saved_model(tmp_path, tower):
    model, processor = llava(tower=tower)
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    sae_for().save_pretrained(tmp_path / "sae")
    cbsae_for().save_pretrained(tmp_path / "cbsae")
    steering = Steering([Edit(3, 9.0)])
    loaded = LlavaSteerer.from_pretrained(tmp_path / "llava", sae=tmp_path / "sae")
    expected = LlavaSteerer(model, processor, sae_for()).generate(pictures(2), "What?", steering, NEW)
    assert loaded.generate(pictures(2), "What?", steering, NEW) == expected
    bottleneck = LlavaSteerer.from_pretrained(tmp_path / "llava", sae=str(tmp_path / "cbsae"))
    expected = LlavaSteerer(model, processor, cbsae_for()).generate(pictures(2), "What?", steering, NEW)
    assert bottleneck.generate(pictures(2), "What?", steering, NEW) == expected
    beside = LlavaSteerer.from_pretrained("me/llava", sae_for(), beside=tmp_path / "sae", dtype=torch.bfloat16)
    assert beside.model.dtype == torch.bfloat16 and len(beside.generate(pictures(1), "What?", steering, NEW)) == 1
    with pytest.raises(ValueError, match="but sha256:0 is asked for"):
        LlavaSteerer.from_pretrained(tmp_path / "llava", sae_for(), revision="sha256:0")
    weights = load_file(tmp_path / "llava" / "model.safetensors")
    name = next(name for name in weights if name.endswith("multi_modal_projector.linear_1.weight"))
    rest = {key: value for key, value in weights.items() if key != name}
    save_file(rest, tmp_path / "llava" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of a LlavaForConditionalGeneration.*linear_1.weight"):
        LlavaSteerer.from_pretrained(tmp_path / "llava", sae_for())
    save_file(weights, tmp_path / "llava" / "model.safetensors", {"format": "pt"})
    other = loaded.with_sae(cbsae_for())
    assert other.generate(pictures(2), "What?", steering, NEW) == expected
    assert (other.repo_id, other.revision) == (str(tmp_path / "llava"), folder_revision(tmp_path / "llava"))
    assert LlavaSteerer(model, processor, sae_for()).revision is None


def test_a_bottleneck_is_steered_by_the_names_of_its_concepts(tower):
    steerer = LlavaSteerer(*llava(tower=tower), cbsae_for())
    features = steerer.image_features(pictures(1), Steering([Edit("red", 30.0)]))
    stream = stream_by_hand(steerer.model, steerer.processor, pictures(1)[0])
    steered = edited_by_hand(steerer.tower.sae, stream, [(33, 30.0, "set")])
    assert_close(features[0], steerer.model.model.multi_modal_projector(steered[1:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("read", "block"), [(-2, 2), (-1, 3), (2, 1), (4, 3)])
def test_the_layer_is_the_one_that_llava_reads(read, block, tower):
    model, processor = llava(tower=tower, vision_feature_layer=read)
    LlavaSteerer(model, processor, sae_for(layer=block))
    steerer = LlavaSteerer(model, processor, sae_for(layer=None))
    assert steerer.tower.layer == block
    steerer.image_features(pictures(1), Steering([Edit(3, 9.0)]))
    for other in {0, 1, 2, 3} - {block}:
        with pytest.raises(ValueError, match=f"reads block {block} .*works at block {other}"):
            LlavaSteerer(model, processor, sae_for(layer=other))


@pytest.mark.parametrize("read", [[-2], [3]])
def test_a_list_of_one_layer_is_one_layer(read, tower):
    steering = Steering([Edit(3, 9.0)])
    one, listed = (LlavaSteerer(*llava(tower=tower, vision_feature_layer=each), sae_for()) for each in (-2, read))
    assert one.tower.layer == listed.tower.layer == 2
    assert torch.equal(listed.image_features(pictures(2), steering), one.image_features(pictures(2), steering))
    assert listed.generate(pictures(1), "What?", steering, NEW) == one.generate(pictures(1), "What?", steering, NEW)
    assert_close(listed.features_of(listed.activations(pictures(2))), one.image_features(pictures(2)))


@torch.no_grad()
def test_an_earlier_layer_has_to_be_asked_for(tower):
    model, processor = llava(tower=tower)
    steerer = LlavaSteerer(model, processor, sae_for(layer=1), layer=1)
    features = steerer.image_features(pictures(1), Steering([Edit(3, 9.0)]))
    vision, blocks = model.model.vision_tower, find_blocks(model)[0]
    pixels = processor.image_processor(images=pictures(1), return_tensors="pt").pixel_values
    stream = blocks_by_hand(blocks[:2], embedded(vision, pixels))
    stream = blocks_by_hand(blocks[2:3], apply(Steering([Edit(3, 9.0)]), stream, steerer.tower.sae))
    assert_close(features, model.model.multi_modal_projector(stream[:, 1:]), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="has no effect"):
        LlavaSteerer(model, processor, sae_for(), layer=3)


def test_saes_of_other_encoders_are_errors(tower):
    with pytest.raises(ValueError, match="activations of width 8, .* puts out 16"):
        LlavaSteerer(*llava(tower=tower), sae_for(d_in=8))
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        LlavaSteerer(*llava(tower=tower), sae_for(layer=7))
    with pytest.raises(ValueError, match="reads several hidden states"):
        LlavaSteerer(*llava(tower=tower, vision_feature_layer=[-2, -1]), sae_for())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "no images"),
        ({"images": pictures(1)[0]}, r"as a list, also a single one: \[picture\]"),
        ({"images": ["one.png"]}, "expected pictures of PIL, as Image.open gives them, got 'one.png'"),
        ({"prompt": ["a"]}, "1 prompts for 2 images"),
        ({"steering": [None]}, "1 steerings for 2 images"),
        ({"temperature": 1.0}, "one seed per image"),
        ({"seeds": [1, 2]}, "one seed per image"),
        ({"temperature": 1.0, "seeds": [1]}, "one seed per image"),
        ({"prompt": "an <image> in words"}, "must not contain the image token"),
    ],
)
def test_bad_requests_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LlavaSteerer(*llava(), sae_for()).generate(**{"images": pictures(2), "prompt": "What?", **arguments})


def test_a_missing_model_says_what_to_try(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="LLaVA could not be loaded. Check the id"):
        LlavaSteerer.from_pretrained("nobody/nothing", sae_for())
    with pytest.raises(OSError, match="no config.json"):
        LlavaSteerer.from_pretrained(tmp_path, sae_for())
    llava()[0].model.vision_tower.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'clip_vision_model', not LLaVA"):
        LlavaSteerer.from_pretrained(tmp_path, sae_for())


def test_the_tiny_tower_has_the_shape_the_hand_made_streams_assume():
    assert VISION["num_hidden_layers"] == 4 and llava()[0].config.vision_feature_layer == -2


@torch.no_grad()
def test_probabilities_are_those_of_the_tokens_one_after_the_other(steerer):
    model, processor = steerer.model, steerer.processor
    images, prompt = pictures(2), "what is it"
    features = steerer.image_features(images, [None, Steering([Edit(1, 30.0)])])
    answer = "it is a"
    found = steerer.probability(features, prompt, answer)
    text = f"USER: {'<image>' * features.shape[1]}\n{prompt} ASSISTANT:"
    before = processor.tokenizer(text, return_tensors="pt").input_ids[0].tolist()
    said = processor.tokenizer(f"{text} {answer}").input_ids[len(before) :]
    assert len(said) > 1
    for image in range(2):
        expected, ids = 1.0, list(before)
        for token in said:
            embeddings = model.model.language_model.embed_tokens(torch.tensor(ids))
            embeddings[torch.tensor(ids) == processor.image_token_id] = features[image]
            expected *= model(inputs_embeds=embeddings[None]).logits[0, -1].softmax(-1)[token].item()
            ids.append(token)
        assert found[image].item() == pytest.approx(expected, rel=1e-4)
    for bad in ("", "a <image>"):
        with pytest.raises(ValueError, match="no text that an answer"):
            steerer.probability(features, prompt, bad)


def test_an_answer_that_nobody_wants_ends_at_the_next_token(steerer):
    asked = []
    with pytest.raises(Stopped):
        steerer.generate(pictures(2), "what is it", stop=lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2
    never = steerer.generate(pictures(2), "what is it", max_new_tokens=NEW, stop=lambda: False)
    assert never == steerer.generate(pictures(2), "what is it", max_new_tokens=NEW)
