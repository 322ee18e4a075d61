"""Trains ``hub/emoji-llava``: a LLaVA-1.5 that talks about scenes, around the frozen encoder of ``hub/emoji-clip``.

    accelerate launch -m training.emoji_world.train_llava
    accelerate launch -m training.emoji_world.train_llava --encoder hub/emoji-dino --output runs/emoji-llava-dino

Projector and decoder learn together from scenes that are drawn on the fly. An image's tokens are most of a prompt, so
every image is read once a step for all of its dialogues: they lie one behind the other in a row, each at the positions
it would have alone, and a mask lets each see the image and itself only. The loss is that of the answers' tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoImageProcessor,
    AutoModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from training.emoji_world.dialogues import Dialogue, dialogues, emptied, prompt
from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.pretrain_clip import SPEC
from training.emoji_world.render import SceneRenderer

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
VOCABULARY = 2048  # at most; the dialogues need fewer
EMPTY_SHARE = 64  # one scene in so many is an empty white image, at least one a batch
UNLABELLED = -100
# The form of LLaVA-1.5's: USER: <image>\n... ASSISTANT: ..., images before the text of their turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }}: "
    r"{% for part in message.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def train_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on dialogues, which reads every text and gives it back as it was.

    Texts begin with ``<s>``, as Llama's do; batches are padded on the left, so that answers follow their prompts.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=512,
    )


def corpus(renderer: SceneRenderer) -> list[str]:
    """The texts that the tokenizer learns from: the dialogues of a few thousand scenes, and all names as answers."""
    rng = np.random.default_rng(0)
    concepts = renderer.atlas.concepts
    texts = [f" {concept.name}" for concept in concepts] * 20
    for i in range(16):
        for row in dialogues(renderer.rows(renderer.batch(i, 256, SPEC)), concepts, rng, 6):
            texts += [text for dialogue in row for text in (prompt(dialogue.question), f" {dialogue.answer}")]
    return texts


def build(
    encoder: str | Path, tokenizer: PreTrainedTokenizerFast
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA with a fresh projector and decoder around the frozen vision model of a CLIP, or a Dinov2Model.

    Args:
        encoder: Folder or Hub id of the encoder.
        tokenizer: The decoder's.

    Returns:
        The model, and the processor that turns pictures and prompts into its inputs.
    """
    whole = AutoModel.from_pretrained(encoder, dtype=torch.float32)
    tower: PreTrainedModel = getattr(whole, "vision_model", whole)
    vision = tower.config
    vision.name_or_path = ""  # the published config must not name a folder of this machine
    patches = (vision.image_size // vision.patch_size) ** 2
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    images = {"image_token_index": tokenizer.image_token_id, "image_seq_length": patches}
    llava = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, **images))
    llava.model.vision_tower.load_state_dict(tower.state_dict())
    llava.model.vision_tower.requires_grad_(False)
    processor = LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(encoder),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=llava.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # the class token, which "default" leaves out again
        chat_template=CHAT_TEMPLATE,
    )
    return llava, processor


def pack(rows: Sequence[Sequence[Dialogue]], processor: LlavaProcessor, image_tokens: int) -> dict[str, torch.Tensor]:
    """Token ids of images and their dialogues, one row an image, padded to the longest.

    Returns:
        ``ids``, ``segments`` (0: the image and what is before it, then 1, 2, ... for the dialogues, the last for
        padding) and ``labels`` (ids of answers and their ends, elsewhere -100), each ``[n, length]``.
    """
    tokenizer = processor.tokenizer
    before, after = prompt("\0").replace(IMAGE, IMAGE * image_tokens).split("\0")
    start = tokenizer(before).input_ids

    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False).input_ids

    questions = iter(encode([dialogue.question + after for row in rows for dialogue in row]))
    answers = iter(encode([f" {dialogue.answer}{EOS}" for row in rows for dialogue in row]))
    columns = {"ids": [], "segments": [], "labels": []}
    for row in rows:
        ids, segments, labels = list(start), [0] * len(start), [UNLABELLED] * len(start)
        for number in range(1, len(row) + 1):
            question, answer = next(questions), next(answers)
            ids += question + answer
            segments += [number] * (len(question) + len(answer))
            labels += [UNLABELLED] * len(question) + answer
        for name, values in zip(columns, (ids, segments, labels)):
            columns[name].append(torch.tensor(values))
    padding = {"ids": tokenizer.pad_token_id, "segments": max(map(len, rows)) + 1, "labels": UNLABELLED}
    return {
        name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padding[name])
        for name, values in columns.items()
    }


def separated(segments: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Additive mask ``[n, 1, length, length]`` and positions ``[n, length]`` that keep the dialogues of a row apart."""
    length = segments.shape[1]
    index = torch.arange(length, device=segments.device)
    earlier = index[:, None] >= index
    visible = earlier & ((segments[:, None] == segments[:, :, None]) | (segments[:, None] == 0))
    mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
    starts = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
    begun = torch.where(starts, index, 0).cummax(1).values  # where the segment of each token begins
    positions = torch.where(segments == 0, index, index - begun + (segments == 0).sum(1, keepdim=True))
    return mask[:, None], positions


@torch.no_grad()
def patch_features(llava: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """The frozen tower's patch tokens, which the projector reads, ``[n, 3, 64, 64] -> [n, patches, width]``."""
    states = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[llava.config.vision_feature_layer][:, 1:]


class DialogueModel(torch.nn.Module):
    """The learning parts of a LLaVA, projector and decoder, and the loss on packed dialogues.

    The frozen tower is no part of it: a checkpoint holds no second copy that could differ from the encoder.
    """

    def __init__(self, llava: LlavaForConditionalGeneration):
        super().__init__()
        self.projector = llava.model.multi_modal_projector
        self.decoder = llava.model.language_model
        self.head = llava.lm_head
        self.image_token = llava.config.image_token_id

    def forward(  # noqa: D102
        self, patches: torch.Tensor, ids: torch.Tensor, segments: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        embeddings = self.decoder.get_input_embeddings()(ids)
        image = (ids == self.image_token)[..., None]
        embeddings = embeddings.masked_scatter(image, self.projector(patches).to(embeddings.dtype))
        mask, positions = separated(segments, embeddings.dtype)
        hidden = self.decoder(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        answered = labels[:, 1:] != UNLABELLED
        targets = labels[:, 1:][answered]
        logits = self.head(hidden[:, :-1][answered]).float()
        right = (logits.argmax(-1) == targets).float()
        words = segments[:, 1:][answered] == 1  # the first dialogue of a row asks for one word
        return F.cross_entropy(logits, targets), {"right": right.mean().item(), "words": right[words].mean().item()}


def main(
    encoder: Annotated[str, typer.Option(help="CLIPModel or Dinov2Model, a folder or Hub id.")] = f"{HUB}/emoji-clip",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 3600,
    batch: Annotated[int, typer.Option(help="Scenes a step and process.")] = 32,
    each: Annotated[int, typer.Option(help="Dialogues about each scene.", min=1, max=12)] = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and dialogues.")] = 3,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    output: Annotated[Path, typer.Option(help="Folder of the published model.")] = HUB / "emoji-llava",
    run: Annotated[Path | None, typer.Option(help="Checkpoint and log; default runs/ with the output's name.")] = None,
) -> None:
    """Train and publish a LLaVA of Emoji World."""
    accelerator, renderer = begin(seed, precision)
    llava, processor = build(encoder, train_tokenizer(corpus(renderer)))
    llava.set_attn_implementation("eager")  # as in pretrain_clip; not saved
    llava.to(accelerator.device)

    def make_batch(index: int) -> tuple:
        rng = np.random.default_rng([seed, index, 6])
        scenes = emptied(renderer.batch(index, batch, SPEC), max(1, batch // EMPTY_SHARE))
        rows = dialogues(renderer.rows(scenes), renderer.atlas.concepts, rng, each)
        packed = pack(rows, processor, llava.config.image_seq_length)
        with accelerator.autocast():
            patches = patch_features(llava, scenes.pixels.to(accelerator.device).float() / 127.5 - 1)
        return patches, packed["ids"], packed["segments"], packed["labels"]

    run = run or RUNS / output.name
    train(DialogueModel(llava), make_batch, accelerator, run=run, steps=steps, learning_rate=learning_rate)
    if accelerator.is_main_process:
        publish(output, llava.save_pretrained, processor.save_pretrained)


if __name__ == "__main__":
    typer.run(main)
