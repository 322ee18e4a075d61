"""The form in which a LLaVA is asked."""

from typing import Any

# The conversation format of LLaVA-1.5, for processors that bring no chat template.
PLAIN_TEMPLATE = "USER: {image}{prompt} ASSISTANT:"


def conversation(processor: Any, prompt: str, image: bool = True) -> str:
    """A prompt in the conversation format of a LLaVA, up to where the answer begins.

    Args:
        processor: The LLaVA's processor.
        prompt: The user's words.
        image: Whether they are about an image; its token is put in place.
    """
    if getattr(processor, "chat_template", None) is None:
        return PLAIN_TEMPLATE.format(image=f"{processor.image_token}\n" if image else "", prompt=prompt)
    content: Any = [*([{"type": "image"}] if image else []), {"type": "text", "text": prompt}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
