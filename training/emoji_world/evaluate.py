"""Measures the encoders of Emoji World on the published splits and writes ``metrics.json`` beside each.

    python -m training.emoji_world.evaluate

- emoji-clip, emoji-teacher, emoji-judge: zero-shot top-1 over all concepts on scenes with one object, in per cent, per
  split; in ``typographic`` also how often the answer is the written word.
- emoji-dino: 5-nearest-neighbour top-1 among the probe split's scenes with one object, leaving the scene itself out,
  beside the same on raw pixels; and the mean cosine of pairs that show the same concept, and of all pairs.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import datasets
import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.hub.files import folder_revision, write_text
from cbsae_hub.pictures import to_rgb
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import TEMPLATES, background_phrase
from training.emoji_world.loop import use_two_threads
from training.emoji_world.paths import HUB
from training.emoji_world.render import STYLES

ANSWERED = ("test", *(f"test_{style}" for style in STYLES[1:]), "typographic")
Embed = Callable[[list], torch.Tensor]


def published(split: str, counts: Sequence[int]) -> datasets.Dataset:
    """The scenes of a published split that have one of these numbers of objects."""
    file = HUB / "emoji-images" / "data" / f"{split}-00000-of-00001.parquet"
    dataset = datasets.Dataset.from_parquet(str(file))
    return dataset.filter(lambda objects: len(objects) in counts, input_columns="objects")


def single_objects(split: str) -> datasets.Dataset:
    """The scenes of a published split that have one object."""
    return published(split, (1,))


def concept_names() -> list[str]:
    """Names of all concepts, in their published order, without the backgrounds."""
    return (HUB / "emoji-images" / "concepts.txt").read_text(encoding="utf-8").splitlines()[: -len(BACKGROUNDS)]


def _embed(images: Embed, pictures: Sequence[Image.Image], batch: int = 256) -> torch.Tensor:
    coloured = [to_rgb(picture) for picture in pictures]
    return torch.cat([images(coloured[i : i + batch]) for i in range(0, len(coloured), batch)])


class Judge:
    """A CLIP that names the concept and the background of a picture, by the captions' own prompts."""

    def __init__(self, images: Embed, texts: Callable[[list[str]], torch.Tensor]):
        self.images, self.concepts = images, concept_names()
        self.classes = self._average(texts([t.format(name) for name in self.concepts]) for t in TEMPLATES)
        self.places = self._average(texts([say(name) for name in BACKGROUNDS]) for say in (str, background_phrase))

    @staticmethod
    def _average(prompts: Iterable[torch.Tensor]) -> torch.Tensor:
        return F.normalize(torch.stack(list(prompts)).mean(0), dim=-1)

    def answers(self, pictures: Sequence[Image.Image]) -> list[str]:
        """The name of the concept that each picture is most like."""
        return [self.concepts[i] for i in (_embed(self.images, pictures) @ self.classes.T).argmax(1)]

    def backgrounds(self, pictures: Sequence[Image.Image]) -> list[str]:
        """The name of the background that each picture is most like."""
        return [BACKGROUNDS[i] for i in (_embed(self.images, pictures) @ self.places.T).argmax(1)]


def percent(hits: Iterable[bool]) -> float:
    """The share of hits, in per cent."""
    return 100 * float(np.mean(list(hits)))


def share(answers: Sequence[str], truth: Sequence[str]) -> float:
    """The share of answers that are the truth, in per cent."""
    return percent(answer == right for answer, right in zip(answers, truth))


def zero_shot(images: Embed, texts: Callable[[list[str]], torch.Tensor]) -> dict[str, float]:
    """Top-1 in per cent over all concepts."""
    judge = Judge(images, texts)
    result = {"concepts": len(judge.concepts)}
    for split in ANSWERED:
        dataset = single_objects(split)
        answers = judge.answers(dataset["image"])
        result[f"top1_{split}"] = share(answers, [objects[0]["name"] for objects in dataset["objects"]])
        if split == "typographic":
            result["typographic_word_read"] = share(answers, dataset["written_word"])
    return result


def neighbours(embeddings: torch.Tensor, names: list[str], k: int = 5) -> float:
    """Top-1 in per cent of the vote of the k most similar other images."""
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(k).indices
    votes = [max(near := [names[j] for j in row], key=near.count) for row in nearest.tolist()]
    return share(votes, names)


def transformers_clip(folder: Path) -> tuple[Embed, Callable[[list[str]], torch.Tensor]]:
    """Functions that give unit embeddings of PIL images and of texts."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)

    def images(pictures):
        pixels = processor(images=pictures, return_tensors="pt").pixel_values
        return F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    def texts(lines):
        ids = processor(text=lines, padding=True, truncation=True, return_tensors="pt").input_ids
        return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)

    return images, texts


def _dino(folder: Path) -> dict[str, float]:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    dataset = single_objects("probe")
    names = [objects[0]["name"] for objects in dataset["objects"]]

    def embed(pictures):
        return F.normalize(model(**processor(images=pictures, return_tensors="pt")).pooler_output, dim=-1)

    embeddings = _embed(embed, dataset["image"])
    pixels = torch.stack([torch.from_numpy(np.asarray(to_rgb(p), np.float32).ravel()) for p in dataset["image"]])
    pixels = F.normalize(pixels - pixels.mean(0), dim=-1)
    similarity = embeddings @ embeddings.T
    other = ~torch.eye(len(names), dtype=torch.bool)
    same = torch.tensor([[a == b for b in names] for a in names]) & other
    return {
        "images": len(names),
        "knn_top1": neighbours(embeddings, names),
        "knn_top1_pixels": neighbours(pixels, names),
        "cosine_same_concept": float(similarity[same].mean()),
        "cosine_all": float(similarity[other].mean()),
    }


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Which of the encoders; default all.")] = None,
) -> None:
    """Measure, and write metrics.json."""
    use_two_threads()
    for name in models or ["emoji-clip", "emoji-teacher", "emoji-judge", "emoji-dino"]:
        folder = HUB / name
        with torch.inference_mode():
            if name == "emoji-dino":
                metrics = _dino(folder)
            elif name in ("emoji-teacher", "emoji-judge"):
                teacher = ClipLike.from_pretrained(folder)
                metrics = zero_shot(teacher.embed_images, teacher.embed_texts)
            else:
                metrics = zero_shot(*transformers_clip(folder))
        figures = {"revision": folder_revision(folder), **{key: round(value, 4) for key, value in metrics.items()}}
        write_text(folder / "metrics.json", json.dumps(figures, indent=2) + "\n")
        typer.echo(f"{name}: {json.dumps(metrics)}")


if __name__ == "__main__":
    typer.run(main)
