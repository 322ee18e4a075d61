"""Judges of a steered model's answer: is the concept there or gone, and is the rest as it should be?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from huggingface_hub import InferenceClient

from cbsae_hub.models import checks

TASKS = ("insertion", "suppression")
YES_OR_NO = "You compare texts. Answer every question with one word: yes or no."
# The two questions about each task's answer. Pach et al. (2025) do not publish theirs: these are ours.
QUESTIONS = {
    "insertion": (
        'Does the answer mention or describe the concept "{concept}"?',
        "Leaving aside what the answer is about: is it a sensible answer to the prompt, of the form that it asks for?",
    ),
    "suppression": (
        'Is the answer free of the concept "{concept}", neither mentioned nor described?',
        'Leaving aside the concept "{concept}": does the answer keep the other content of the original answer?',
    ),
}


@dataclass(frozen=True)
class Case:
    """One answer of a steered model to a prompt, and the ``plain`` one about the same image without steering.

    Raises:
        ValueError: If the kind of task is neither "insertion" nor "suppression".
    """

    kind: str
    concept: str
    prompt: str
    answer: str
    plain: str

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, TASKS)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case.

    Attributes:
        concept: Insertion: it appears in the answer. Suppression: it is gone from it.
        rest: Insertion: the answer still fits the prompt. Suppression: what has nothing to do with the concept is kept.
    """

    concept: bool
    rest: bool


Judge: TypeAlias = Callable[[Case], Verdict]


def open_client(base_url: str | None, api_key: str | None) -> InferenceClient:
    """A client of an endpoint that speaks OpenAI's protocol; arguments as :class:`ChatJudge`."""
    # Left alone, the client would send the Hub's token to whatever endpoint this is.
    return InferenceClient(base_url=base_url, api_key=api_key or (base_url and "none"))


class ChatJudge:
    """A language model behind an endpoint that speaks OpenAI's chat completion protocol.

    It is asked two yes/no questions about each case, at temperature 0; nothing is asked twice.

    Args:
        model: Its name at the endpoint, or a Hub id.
        base_url: Address of the endpoint, for instance "https://api.openai.com/v1"; default Hugging Face's inference
            providers.
        api_key: Key of the endpoint. Without one, an endpoint of your own gets none (the Hub's saved token goes to the
            Hub alone).
    """

    def __init__(self, model: str, base_url: str | None = None, api_key: str | None = None):
        self.model, self.base_url = model, base_url
        self._client = open_client(base_url, api_key)

    def __repr__(self) -> str:
        return f"ChatJudge({self.model!r}, base_url={self.base_url!r})"

    def __call__(self, case: Case) -> Verdict:
        """Judges a case.

        Raises:
            ValueError: If an answer is neither yes nor no.
            huggingface_hub.errors.HfHubHTTPError: If the endpoint refuses.
        """
        return Verdict(*(self._ask(case, question) for question in QUESTIONS[case.kind]))

    def _ask(self, case: Case, question: str) -> bool:
        texts = {"Prompt": case.prompt, "Answer": case.answer}
        if case.kind == "suppression":
            texts["Original answer"] = case.plain
        quoted = [f"{name}:\n<<<\n{text}\n>>>" for name, text in texts.items()]
        content = "\n\n".join([*quoted, question.format(concept=case.concept) + " Answer yes or no."])
        reply = self._client.chat_completion(
            [{"role": "system", "content": YES_OR_NO}, {"role": "user", "content": content}],
            model=self.model,
            temperature=0.0,
            max_tokens=8,
        )
        return _yes_or_no(reply.choices[0].message.content, self.model)


def _yes_or_no(text: Any, model: str) -> bool:
    answer = str(text or "").strip().removesuffix(".").lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"{model} was to answer yes or no and said {text!r:.80}: take another judge")
    return answer == "yes"
