"""The tab "Use it": the same in Python, by HTTP and as a tool of an assistant, and the recipe of what is on screen."""

import json
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import gradio as gr
from markupsafe import Markup

from cbsae_hub.hub.files import sha256, write_text
from cbsae_hub.steering import Edit
from cbsae_hub.studio.basket import Basket, concept_of
from cbsae_hub.studio.links import basket_of
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import public_id
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


class UseItTab(Tab):
    """Code that does what the page does, with the model and the basket that are on screen, and the ``endpoints``."""

    def __init__(self, session: SessionState, endpoints: list[list[str]]):
        super().__init__(session)
        self.endpoints = endpoints

    def render(self) -> None:
        first = self.session.serving.first
        code = snippets(first, Basket(), LOCAL)
        gr.Markdown("Everything on this page without the page. The code follows the model and the basket.")
        codes = [
            gr.Code(code[name], kind, label=title, elem_id=f"use-{name}", buttons=["copy"])
            for name, (title, kind) in LANGUAGES.items()
        ]
        gr.HTML(template("use_it").endpoints(self.endpoints), elem_id="use-endpoints")
        with gr.Row():
            self.recipe = gr.HTML(_recipe_link(first, Basket()), elem_id="use-recipe")
        self.outputs, self.parts = [*codes, self.recipe], {}
        gr.Code(CITATION, label="Citation", elem_id="use-citation", buttons=["copy"])

    @kindly
    def show(self, request: gr.Request, key: Any, edits: Any) -> list[Any]:
        """Returns values of :attr:`outputs` for a model and a basket."""
        model = self.session.model_of(key)
        basket = basket_of(edits, model)
        code = snippets(model, basket, str(request.headers.get("origin") or LOCAL))
        return [*(code[name] for name in LANGUAGES), _recipe_link(model, basket)]


def snippets(model: LoadedModel, basket: Basket, address: str) -> dict[str, str]:
    """Returns code for a model and a basket, or its best neuron if that is empty, by the keys of :data:`LANGUAGES`."""
    source = as_typed(model.model_id)
    llava, unclip = (as_typed(generator or f"your-{name}") for name, generator in model.generators.ids.items())
    edits = list(basket.active) or [Edit(model.best_neuron, model.alpha or 10.0)]
    code = ", ".join(f"Edit({edit.neuron}, {edit.value:.2f})" for edit in edits)
    options = " ".join(f"--edit {edit.neuron}={edit.value:.2f}" for edit in edits)
    pairs = [{"neuron": edit.neuron, "value": round(edit.value, 2)} for edit in edits]
    # On one line each: they come from other people's files, and a new line would be code.
    concepts = [" ".join((concept_of(model, int(edit.neuron)) or "").split()) for edit in edits]
    name = next(filter(None, concepts), None)
    find = f"cbsae find {quote(source)} {quote(name)}\n" if name else ""  # nobody finds what has no name
    question = "What is shown in this image? Use exactly one word!"
    data = {"data": ["white", question, pairs]}
    return {
        "python": f'''from PIL import Image
from cbsae_hub import Edit, Pack, Steering, load
from cbsae_hub.steering import LlavaSteerer, UnclipSteerer

sae, pack = load("{source}"), Pack.from_pretrained("{source}")
steering = Steering([{code}])  # {", ".join(concept or "unnamed" for concept in concepts)}

picture = Image.new("RGB", (224, 224), "white")
llava = LlavaSteerer.from_pretrained("{llava}", sae, pack)
print(llava.generate([picture], "{question}", steering))

unclip = UnclipSteerer.from_pretrained("{unclip}", sae, pack)
unclip.generate([picture], steering, seeds=[0, 1])[0].save("drawn.png")
''',
        "shell": f"""{find}cbsae inspect {quote(source)} my-picture.png
cbsae steer {quote(source)} white {options} --llava {quote(llava)} --unclip {quote(unclip)} --output drawn.png
""",
        "client": f'''from gradio_client import Client

client = Client("{address}")
print(client.predict("pizza", 5, api_name="/find_neurons"))
print(client.predict("white", "{question}", {json.dumps(pairs)}, api_name="/steer_caption"))
# A picture of yours: base64.b64encode(open("my.png", "rb").read()).decode() instead of "white".
''',
        "curl": f"""id=$(curl -s {address}/gradio_api/call/steer_caption -H 'Content-Type: application/json' \\
  -d '{json.dumps(data)}' | sed 's/.*"event_id": *"\\([^"]*\\)".*/\\1/')
curl -s {address}/gradio_api/call/steer_caption/$id
""",
        "mcp": json.dumps({"mcpServers": {"cbsae_hub": {"url": f"{address}/gradio_api/mcp/"}}}, indent=2),
    }


def as_typed(model: str) -> str:
    """Returns a model as one would type it: a Hub id, or a folder seen from where the page was started."""
    if not Path(model).is_dir():
        return model
    folder, start = Path(model).resolve(), Path.cwd()
    return str(folder.relative_to(start)) if folder.is_relative_to(start) else public_id(model)


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
