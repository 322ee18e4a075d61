"""What the answers are said to be of."""

import pytest

from cbsae_hub.steering import Edit, Steering
from cbsae_hub.studio.server.experiments import Answer, Answers, Experiment
from cbsae_hub.studio.tabs.steer_llava import answers_html


@pytest.mark.parametrize(
    ("word", "steered", "said"),
    [
        ("cat", True, "how probable is “cat”"),
        ("", True, "The neurons of the basket have no name"),
        ("", False, "the basket is empty, or all in it is muted"),
    ],
)
def test_the_note_says_what_is_in_the_basket(word, steered, said):
    one = Answer("a dog", 0.5 if word else None)
    experiment = Experiment(None, None, Steering([Edit(3, 1.0)] if steered else []), word)
    assert said in answers_html(Answers(one, one, one, one, 0.1), experiment)
