"""Explainers: what is sent to an endpoint, and a model of transformers against its own generate."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from steerable_models import llava, pictures

from cbsae_hub.studies.explainers import ChatExplainer, TransformersExplainer

TEMPLATE = (
    "{% for message in messages %}<s>user: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} says:{% endif %}"
)


def test_an_endpoint_is_sent_the_images_and_the_question(endpoint):
    endpoint.replies = [" a pizza \n", None]
    explain = ChatExplainer("gpt", endpoint.url, "secret", "What?", 5)
    images = pictures(2)
    assert explain(images) == "a pizza" and explain(images) == ""
    request = endpoint.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("gpt", 0, 5)
    *sent, question = request["messages"][0]["content"]
    assert question == {"type": "text", "text": "What?"} and len(sent) == 2
    for part, image in zip(sent, images):
        head, _, code = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(code))), image)


def test_a_model_of_transformers_is_asked_about_all_images(tmp_path):
    model, processor = llava(chat_template=TEMPLATE)
    images = pictures(2)

    def by_hand(prompt):
        inputs = processor(text=f"<s>user: <image><image> {prompt} says:", images=images, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    questions = ["What?", "Why?", "Tell a story.", "Name it!", "Is it red?", "And now?", "Who?", "Where is it?"]
    prompt, expected = next((one, answer) for one in questions if (answer := by_hand(one)))
    assert TransformersExplainer(model, processor, prompt, 6)(images) == expected
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert TransformersExplainer.from_pretrained(tmp_path, prompt=prompt, max_new_tokens=6)(images) == expected
    with pytest.raises(ValueError, match="has no chat template"):
        TransformersExplainer(*llava())
