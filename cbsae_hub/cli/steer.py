"""``cbsae steer`` lets LLaVA answer, unCLIP draw and CLIP choose words when neurons are set."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cbsae_hub.cli.options import Device, Model, Revision
from cbsae_hub.cli.output import Data, command, facts
from cbsae_hub.cli.sources import device_of, model_and_pack, name_of, open_image

if TYPE_CHECKING:
    from PIL import Image

    from cbsae_hub.steering import ClipZeroShotSteerer
    from cbsae_hub.steering.edits import AnySteering

QUESTION = "What is shown in this image? Use exactly one word!"  # first_words.ONE_WORD, without its imports
PICTURE_TYPES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
GUIDANCE = 10.0  # of drawings, unless steerability was measured with another one
OF_ANSWERS = ("prompt", "max_new_tokens")
OF_DRAWINGS = ("seed", "steps", "guidance", "noise_level")
OF_WORDS = ("vocabulary", "template", "words")
VERSIONS = {"original": "original", "sae": "SAE alone", "steered": "steered", "random": "random direction"}


def _show(data: Data) -> str:
    lines = [(VERSIONS[version], answer) for version, answer in (data["answers"] or {}).items()]
    lines += [
        (VERSIONS[version], ", ".join(f"{one['word']} {one['probability']:.1%}" for one in words))
        for version, words in (data["words"] or {}).items()
    ]
    files: dict[str, list[str]] = {}
    for version, file in (data["pictures"] or {}).items():
        files.setdefault(file, []).append(VERSIONS[version])
    return facts([*lines, *((file, "drawn: " + ", ".join(versions)) for file, versions in files.items())])


@command(_show)
def steer(
    context: typer.Context,
    model: Model,
    image: Annotated[str, typer.Argument(help='File of a picture, or "white".')],
    edit: Annotated[list[str], typer.Option(help="NEURON=VALUE, the neuron by number or name; several times.")],
    op: Annotated[
        Literal["set", "add", "scale"],
        typer.Option(help="The neuron is set to the value, or the value is added, or a factor."),
    ] = "set",
    unit: Annotated[
        Literal["absolute", "p99"],
        typer.Option(help="Unit of the values; p99: multiples of the neuron's 99th percentile."),
    ] = "absolute",
    isolate: Annotated[bool, typer.Option("--isolate", help="All other neurons are zero.")] = False,
    keep_error: Annotated[bool, typer.Option("--keep-error", help="Add back what the SAE loses.")] = False,
    tokens: Annotated[Literal["all", "cls", "patches"], typer.Option(help="Tokens that are steered.")] = "all",
    llava: Annotated[str | None, typer.Option(help="Folder or Hub id of the LLaVA that answers.")] = None,
    prompt: Annotated[str, typer.Option(help="Question to LLaVA.")] = QUESTION,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Answers end there at the latest.")] = 48,
    unclip: Annotated[str | None, typer.Option(help="Folder or Hub id of the Stable unCLIP that draws.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the drawings; or a file, which gets all of them in a row.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings' noise, the same for all.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps of denoising.")] = 20,
    guidance: Annotated[
        float | None, typer.Option(help=f"Default that of the pack's measurements, else {GUIDANCE:g}.")
    ] = None,
    noise_level: Annotated[
        int, typer.Option(min=0, help="Noise on what unCLIP sees, up to 999: the more, the freer the drawing.")
    ] = 0,
    clip: Annotated[str | None, typer.Option(help="Folder or Hub id of the CLIP that chooses words.")] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Words among which it chooses: a file, one a line; default the pack's.")
    ] = None,
    template: Annotated[str, typer.Option(help="Sentence with {} in the place of the word.")] = "{}",
    words: Annotated[int, typer.Option(min=1, help="Number of words of each answer.")] = 5,
    revision: Revision = None,
    device: Device = None,
) -> Data:
    """Set neurons and ask LLaVA what it sees, let unCLIP draw it, or have CLIP choose words for it.

    Each answer, drawing and choice comes four times: of the picture as it is, through the SAE with nothing set,
    steered, and pushed as far in a random direction.
    """
    if llava is None and unclip is None and clip is None:
        raise typer.BadParameter("give --llava, --unclip, --clip, or several: who is to be steered?")
    if (unclip is None) != (output is None):
        raise typer.BadParameter("--unclip and --output go together: what is drawn, and where to")
    if llava is None:
        _require_unused(context, OF_ANSWERS, "--llava, of whose answers they are")
    if unclip is None:
        _require_unused(context, OF_DRAWINGS, "--unclip, of whose drawings they are")
    if clip is None:
        _require_unused(context, OF_WORDS, "--clip, of whose words they are")
    if guidance is not None and not math.isfinite(guidance):
        raise typer.BadParameter(f"--guidance must be a finite number, got {guidance}")
    if output is not None:
        _check_output(output)
    pairs = [_pair(text) for text in edit]

    from cbsae_hub.data.concepts import ConceptSet
    from cbsae_hub.steering import ClipZeroShotSteerer, Edit, LlavaSteerer, Steering, UnclipSteerer, resolve
    from cbsae_hub.steering.controls import with_controls

    picture, (sae, pack) = open_image(image), model_and_pack(model, revision)
    if pack is None and (unit == "p99" or any(isinstance(neuron, str) for neuron, _ in pairs)):
        typer.echo(f"{model} has no pack (`cbsae pack` builds one): names and percentiles are known from it", err=True)
    edits = [Edit(neuron, value, op) for neuron, value in pairs]
    steered = resolve(Steering(edits, isolate, keep_error, tokens, unit), sae, pack)
    steerings = [with_controls(steered)[version] for version in VERSIONS]
    target = device_of(device)
    answers = files = choices = None
    if llava is not None:
        steerer = LlavaSteerer.from_pretrained(llava, sae, pack, device=target, beside=model)
        texts = steerer.generate([picture] * len(VERSIONS), prompt, steerings, max_new_tokens)
        answers = dict(zip(VERSIONS, texts, strict=True))
    if unclip is not None and output is not None:
        drawer = UnclipSteerer.from_pretrained(unclip, sae, pack, device=target, beside=model)
        if guidance is None:
            scores = {} if pack is None else pack.info["scores"].get("steerability", {})
            guidance = scores.get("guidance") or GUIDANCE
        pictures = drawer.generate(
            [picture] * len(VERSIONS), steerings, [seed], steps, guidance, noise_level=noise_level
        )
        files = _save(dict(zip(VERSIONS, pictures, strict=True)), output)
    if clip is not None:
        if vocabulary is not None:
            concepts = list(ConceptSet.load(vocabulary))
        elif pack is not None:
            concepts = pack.vocabulary
        else:
            raise ValueError(f"{model} has no pack, whose words CLIP would choose among: give --vocabulary")
        chooser = ClipZeroShotSteerer.from_pretrained(
            clip, sae, concepts, pack, target, template=template, beside=model
        )
        choices = _choices(chooser, picture, dict(zip(VERSIONS, steerings)), words)
    return {
        "model": model,
        "image": image,
        "edits": [{**vars(edit), "name": name_of(int(edit.neuron), sae, pack)} for edit in steered.edits],
        "prompt": prompt if llava else None,
        "answers": answers,
        "pictures": files,
        "words": choices,
    }


def _choices(
    clip: "ClipZeroShotSteerer", picture: "Image.Image", steerings: "dict[str, AnySteering | None]", count: int
) -> dict[str, list[Data]]:
    """Returns the most probable words of each version, with their probabilities."""
    answers = clip.effect([picture] * len(steerings), list(steerings.values())).after
    best = answers.topk(min(count, len(clip.vocabulary)))
    return {
        version: [{"word": clip.vocabulary[word], "probability": value} for value, word in zip(values, places)]
        for version, values, places in zip(steerings, best.values.tolist(), best.indices.tolist())
    }


def _require_unused(context: typer.Context, names: tuple[str, ...], needed: str) -> None:
    """Raises BadParameter for options that do nothing without another one."""
    sources = {name: context.get_parameter_source(name) for name in names}
    idle = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if idle:
        options = ", ".join("--" + name.replace("_", "-") for name in idle)
        raise typer.BadParameter(f"{options} without {needed}: nothing would come of it")


def _pair(text: str) -> tuple[int | str, float]:
    """Returns neuron and value of NEURON=VALUE; a number is a neuron's number."""
    name, equals, value = (part.strip() for part in text.rpartition("="))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (name and equals and math.isfinite(number)):
        raise typer.BadParameter(f"--edit takes NEURON=VALUE, such as zebra=50 or 12=30, got {text!r}")
    return int(name) if name.removeprefix("-").isdecimal() else name, number


def _check_output(output: Path) -> None:
    """Raises BadParameter, before anything is drawn, for a path that can be neither a picture nor a folder."""
    from PIL import Image

    suffix = output.suffix.lower()
    if suffix not in PICTURE_TYPES and suffix in Image.registered_extensions():
        raise typer.BadParameter(f"--output: pictures are written as {', '.join(PICTURE_TYPES)}, not as {suffix}")
    folder = output.parent if suffix in PICTURE_TYPES else output
    if blocked := next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None):
        raise typer.BadParameter(f"--output: {blocked} is a file, so it cannot be a folder")
    if suffix in PICTURE_TYPES and output.is_dir():
        raise typer.BadParameter(f"--output: {output} is a folder, so it cannot be a picture")


def _save(pictures: "dict[str, Image.Image]", output: Path) -> dict[str, str]:
    """Writes drawings; returns the file of each, the same for all if they are in one row."""
    from cbsae_hub.hub.files import replace_file
    from cbsae_hub.pictures import grid_of

    if output.suffix.lower() in PICTURE_TYPES:
        files = dict.fromkeys(pictures, output)
        written = {output: grid_of([list(pictures.values())])}
    else:
        files = {name: output / f"{name}.png" for name in pictures}
        written = {files[name]: picture for name, picture in pictures.items()}
    for file, picture in written.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as partial:
            picture.save(partial, PICTURE_TYPES[file.suffix.lower()])
    return {name: str(file) for name, file in files.items()}
