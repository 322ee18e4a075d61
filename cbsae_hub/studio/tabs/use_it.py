"""The tab "Use it": the same in Python, by HTTP and as a tool of an assistant, and the recipe of what is on screen."""

import json
from inspect import signature
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import gradio as gr
from markupsafe import Markup

from cbsae_hub.hub.files import sha256, write_text
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.basket import Basket, concept_of
from cbsae_hub.studio.links import basket_of
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import ELSEWHERE, as_typed, public_id
from cbsae_hub.studio.server.refusal import kindly
from cbsae_hub.studio.server.session import SessionState
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.templates import template
from cbsae_hub.version import __version__

LOCAL = "http://127.0.0.1:7860"
CITATION = f"""The method: CB-SAE, arXiv:2512.10805 (2025).
The software:
@software{{cbsae_hub, title = {{cbsae_hub: concept bottleneck sparse autoencoders for vision encoders}},
  version = {{{__version__}}}, year = {{2026}}}}"""
LANGUAGES: dict[str, tuple[str, Literal["python", "shell", "json"]]] = {
    "python": ("Python", "python"),
    "shell": ("Command line", "shell"),
    "client": ("Python, from anywhere", "python"),
    "curl": ("curl", "shell"),
    "mcp": ("Assistants (MCP)", "json"),
}
_TEMPLATE = template("use_it")


class UseItTab(Tab):
    """Code that does what the page does, with the model and the basket that are on screen, and the ``endpoints``."""

    def __init__(self, session: SessionState, endpoints: list[list[str]]):
        super().__init__(session)
        self.endpoints = endpoints

    def render(self) -> None:
        first = self.session.serving.first
        code = snippets(first, Basket(), LOCAL)
        self.introduction = gr.HTML(_TEMPLATE.introduction(where(first)), elem_id="use-introduction")
        codes = [
            gr.Code(code[name], kind, label=title, elem_id=f"use-{name}", buttons=["copy"])
            for name, (title, kind) in LANGUAGES.items()
        ]
        gr.HTML(_TEMPLATE.endpoints(self.endpoints), elem_id="use-endpoints")
        with gr.Row():
            self.recipe = gr.HTML(_recipe_link(first, Basket()), elem_id="use-recipe")
        self.outputs, self.parts = [self.introduction, *codes, self.recipe], {}
        gr.Code(CITATION, label="Citation", elem_id="use-citation", buttons=["copy"])

    @kindly
    def show(self, request: gr.Request, key: Any, edits: Any) -> list[Any]:
        """Returns values of :attr:`outputs` for a model and a basket."""
        model = self.session.model_of(key)
        basket = basket_of(edits, model)
        name = "" if model is self.session.serving.first else model.key
        code = snippets(model, basket, str(request.headers.get("origin") or LOCAL), name)
        return [_TEMPLATE.introduction(where(model)), *(code[name] for name in LANGUAGES), _recipe_link(model, basket)]


def snippets(model: LoadedModel, basket: Basket, address: str, key: str = "") -> dict[str, str]:
    """Returns code for a model and a basket, or its best neuron if that is empty, by the keys of :data:`LANGUAGES`.

    What is steered is steered by generators that read the model's encoder; where there is none, code looks.

    Args:
        model: The model.
        basket: The basket.
        address: The page's.
        key: The model's, for the page's endpoints; "" for the first model.
    """
    edits = list(basket.active) or [Edit(model.best_neuron, model.alpha or 10.0)]
    # On one line each: they come from other people's files, and a new line would be code.
    names = [" ".join((concept_of(model, int(edit.neuron)) or "").split()) for edit in edits]
    return {
        "python": _python(model, edits, names),
        "shell": _shell(model, edits, next(filter(None, names), None)),
        **_by_http(model, edits, next(filter(None, names), "pizza"), address, key),
        "mcp": json.dumps({"mcpServers": {"cbsae_hub": {"url": f"{address}/gradio_api/mcp/"}}}, indent=2),
    }


def source_of(model: LoadedModel) -> str:
    """Returns the model as code names it; a visitor's own one is what they download under Your concepts."""
    return f"{ELSEWHERE}{model.archive_name}" if model.own else as_typed(model.model_id, model.name)


def where(model: LoadedModel) -> str:
    """Returns what the reader of the code has to know about the model's place; "" for a repository of the Hub."""
    source = source_of(model)
    if model.own:
        return (
            f"Download your model under Your concepts, unpack it, and put the path of its folder in place of {source}."
        )
    if not Path(model.model_id).is_dir():
        return ""
    if source.startswith(ELSEWHERE):
        return f"Put the path of the folder {model.name} on your machine in place of {source}."
    return f"{source} is a folder, seen from the one in which this page was started."


def _python(model: LoadedModel, edits: list[Edit], names: list[str]) -> str:
    source, llava, unclip = _quoted(source_of(model)), model.reader("llava"), model.reader("unclip")
    code, neurons = (", ".join(map(show, edits)) for show in (_as_python, lambda edit: str(edit.neuron)))
    comment = ", ".join(name or "unnamed" for name in names)
    if model.pack.of_texts:
        items = '["a red dog"]' if model.sae.tower == "text" else '[(None, "What is a dog?")]'
        return f"""from cbsae_hub import load
from cbsae_hub.encoders import explained_tower

sae = load({source})
encoder = explained_tower(sae, beside={source})

latents = sae.encode(encoder({items})[0])  # [tokens, neurons]
for neuron in [{neurons}]:  # {comment}
    print(neuron, latents[:, neuron].max().item())
"""
    if llava is None and unclip is None:
        return f"""from PIL import Image
from cbsae_hub import load
from cbsae_hub.encoders import explained_encoder

sae = load({source})
encoder = explained_encoder(sae, beside={source})

picture = Image.new("RGB", (224, 224), "white")  # or Image.open("my-picture.png")
latents = sae.encode(encoder([picture]))[0]  # [tokens, neurons]
for neuron in [{neurons}]:  # {comment}
    print(neuron, latents[:, neuron].mean().item())
"""
    kinds = {"LlavaSteerer": llava, "UnclipSteerer": unclip}
    parts = [
        f"""from PIL import Image
from cbsae_hub import Edit, Steering, load
from cbsae_hub.steering import {", ".join(kind for kind, generator in kinds.items() if generator)}

sae = load({source})
steering = Steering([{code}])  # {comment}
picture = Image.new("RGB", (224, 224), "white")
"""
    ]
    if llava is not None:
        parts.append(f'''llava = LlavaSteerer.from_pretrained({_quoted(as_typed(llava))}, sae)
print(llava.generate([picture], "{ONE_WORD}", steering))
''')
    if unclip is not None:
        parts.append(f"""unclip = UnclipSteerer.from_pretrained({_quoted(as_typed(unclip))}, sae)
unclip.generate([picture], steering, seeds=[0, 1])[0].save("drawn.png")
""")
    return "\n".join(parts)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _as_python(edit: Edit) -> str:
    return f"Edit({edit.neuron}, {edit.value:.2f})"


def _shell(model: LoadedModel, edits: list[Edit], name: str | None) -> str:
    source = quote(source_of(model))
    lines = [f"cbsae inspect {source} white"]
    if name and not model.own:  # nobody finds what has no name, or without a pack
        lines.insert(0, f"cbsae find {source} {quote(name)}")
    options = [f"--edit {edit.neuron}={edit.value:.2f}" for edit in edits]
    generators = {kind: as_typed(reader) for kind in ("llava", "unclip") if (reader := model.reader(kind))}
    if generators:
        options += [f"--{kind} {quote(generator)}" for kind, generator in generators.items()]
        options += ["--output drawn.png"] * ("unclip" in generators)
        lines.append(f"cbsae steer {source} white {' '.join(options)}")
    return "\n".join(lines) + "\n"


def _by_http(model: LoadedModel, edits: list[Edit], word: str, address: str, key: str) -> dict[str, str]:
    """Returns code that asks this page: LLaVA, if it has one that reads the encoder; else what fires on a picture."""
    pairs = [{"neuron": edit.neuron, "value": round(edit.value, 2)} for edit in edits]
    steers = model.no_reader("llava") is None
    endpoint, values = ("steer_caption", ["white", ONE_WORD, pairs]) if steers else ("encode_image", ["white", 10])
    naming = f", model={_quoted(key)}" if key else ""
    usual = [parameter.default for parameter in list(signature(getattr(Api, endpoint)).parameters.values())[1:-1]]
    data = {"data": [*values, *usual[len(values) :], key] if key else values}
    return {
        "client": f'''from gradio_client import Client

client = Client("{address}")
print(client.predict({_quoted(word)}, 5{naming}, api_name="/find_neurons"))
print(client.predict({", ".join(map(json.dumps, values))}{naming}, api_name="/{endpoint}"))
# A picture of yours: base64.b64encode(open("my.png", "rb").read()).decode() instead of "white".
''',
        "curl": f"""id=$(curl -s {address}/gradio_api/call/{endpoint} -H 'Content-Type: application/json' \\
  -d {quote(json.dumps(data))} | sed 's/.*"event_id": *"\\([^"]*\\)".*/\\1/')
curl -s {address}/gradio_api/call/{endpoint}/$id
""",
    }


def recipe_of(model: LoadedModel, basket: Basket) -> dict[str, Any]:
    """Returns everything that somebody else needs to do again what is on screen."""
    return {
        "package": f"cbsae_hub {__version__}",
        "model": model.name,
        "revision": model.sae.revision,
        "encoder": model.pack.info["encoder"],
        "generators": {name: generator and public_id(generator) for name, generator in model.generators.ids.items()},
        "added_concepts": model.concepts[-model.own :] if model.own else [],
        "edits": [
            {
                "neuron": edit.neuron,
                "name": concept_of(model, int(edit.neuron)),
                "value": edit.value,
                "muted": edit.neuron in basket.muted,
            }
            for edit in basket.edits
        ],
        "unit": "latents",
    }


def _recipe_link(model: LoadedModel, basket: Basket) -> Markup:
    """Writes the recipe, the same recipe into the same file; returns its link."""
    text = json.dumps(recipe_of(model, basket), indent=1) + "\n"
    file = downloads.served(sha256(text)) / "recipe.json"
    write_text(file, text)
    return html.PIECES.download("The current recipe as JSON", downloads.address(file))
