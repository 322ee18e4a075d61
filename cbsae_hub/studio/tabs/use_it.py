"""The tab "Use it": the same in Python, by HTTP and as a tool of an assistant, and the recipe of what is on screen."""

import json
from pathlib import Path
from shlex import quote
from typing import Any

import gradio as gr

from cbsae_hub.hub.files import sha256, write_text
from cbsae_hub.studio.basket import Basket, concept_of
from cbsae_hub.studio.links import basket_of
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.loaded import Loaded, public_id
from cbsae_hub.studio.server.visit import Visit, kindly
from cbsae_hub.studio.view import html
from cbsae_hub.version import __version__

LOCAL = "http://127.0.0.1:7860"
CITATION = f"""The method: CB-SAE, arXiv:2512.10805 (2025).
The software:
@software{{cbsae_hub, title = {{cbsae_hub: concept bottleneck sparse autoencoders for vision encoders}},
  version = {{{__version__}}}, year = {{2026}}}}"""
LANGUAGES = {
    "python": "Python",
    "shell": "Command line",
    "client": "Python, from anywhere",
    "curl": "curl",
    "mcp": "Assistants (MCP)",
}


class UseItTab:
    """Code that does what the page does, with the model and the basket that are on screen.

    Args:
        visit: What the tabs share.
        endpoints: HTML that says what they are.
    """

    def __init__(self, visit: Visit, endpoints: str):
        self.visit, self.endpoints = visit, endpoints

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        first = self.visit.serving.first
        code = snippets(first, Basket(), LOCAL)
        gr.Markdown("Everything on this page without the page. The code follows the model and the basket.")
        self.codes = []
        for name, title in LANGUAGES.items():
            kind = {"client": "python", "curl": "shell", "mcp": "json"}.get(name, name)
            self.codes.append(gr.Code(code[name], kind, label=title, elem_id=f"use-{name}", buttons=["copy"]))
        gr.HTML(f"<h2>Endpoints</h2>{self.endpoints}", elem_id="use-endpoints")
        with gr.Row():
            self.recipe = gr.HTML(_recipe_link(first, Basket()), elem_id="use-recipe")
        gr.Code(CITATION, label="Citation", elem_id="use-citation", buttons=["copy"])

    @kindly
    def show(self, request: gr.Request, served: Any, basket: Any) -> list[Any]:
        """Code for a model and a basket."""
        loaded = self.visit.loaded(served)
        basket = basket_of(basket, loaded)
        code = snippets(loaded, basket, str(request.headers.get("origin") or LOCAL))
        return [*(code[name] for name in LANGUAGES), _recipe_link(loaded, basket)]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`show` sets."""
        return [*self.codes, self.recipe]


def snippets(loaded: Loaded, basket: Basket, address: str) -> dict[str, str]:
    """Code for a model and a basket, or an example neuron if that is empty; by the keys of :data:`LANGUAGES`.

    Args:
        loaded: The model.
        basket: What is steered.
        address: Of the page.
    """
    model = as_typed(loaded.model_id)
    llava, unclip = (as_typed(given or f"your-{which}") for which, given in loaded.generators.ids.items())
    edits = list(basket.edits) or [_example(loaded)]
    written = ", ".join(f"Edit({neuron}, {value:.2f})" for neuron, value in edits)
    options = " ".join(f"--edit {neuron}={value:.2f}" for neuron, value in edits)
    pairs = [{"neuron": neuron, "value": round(value, 2)} for neuron, value in edits]
    # On one line each: they come from other people's files, and a new line would be code.
    concepts = [" ".join((concept_of(loaded, neuron) or "").split()) for neuron, _ in edits]
    named = next(filter(None, concepts), None)
    found = f"cbsae find {quote(model)} {quote(named)}\n" if named else ""  # nobody finds what has no name
    question = "What is shown in this image? Use exactly one word!"
    data = {"data": ["white", question, pairs]}
    return {
        "python": f'''from PIL import Image
from cbsae_hub import Edit, Pack, Steering, load
from cbsae_hub.steering import LlavaSteerer, UnclipSteerer

sae, pack = load("{model}"), Pack.from_pretrained("{model}")
steering = Steering([{written}])  # {", ".join(concept or "unnamed" for concept in concepts)}

picture = Image.new("RGB", (224, 224), "white")
llava = LlavaSteerer.from_pretrained("{llava}", sae, pack)
print(llava.generate([picture], "{question}", steering))

unclip = UnclipSteerer.from_pretrained("{unclip}", sae, pack)
unclip.generate([picture], steering, seeds=[0, 1])[0].save("drawn.png")
''',
        "shell": f"""{found}cbsae inspect {quote(model)} my-picture.png
cbsae steer {quote(model)} white {options} --llava {quote(llava)} --unclip {quote(unclip)} --output drawn.png
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
    """A model as one would type it: a Hub id, or a folder seen from where the page was started."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    here = Path.cwd()
    return str(folder.resolve().relative_to(here)) if folder.resolve().is_relative_to(here) else public_id(model)


def recipe_of(loaded: Loaded, basket: Basket) -> dict[str, Any]:
    """What is on screen, such that somebody else can do it again."""
    return {
        "package": f"cbsae_hub {__version__}",
        "model": loaded.name,
        "revision": loaded.sae.revision,
        "encoder": loaded.pack.info["encoder"],
        "generators": {name: given and public_id(given) for name, given in loaded.generators.ids.items()},
        "added_concepts": list(loaded.sae.concepts)[-loaded.own :] if loaded.own else [],
        "edits": [
            {"neuron": item.neuron, "name": concept_of(loaded, item.neuron), "value": item.value, "muted": item.muted}
            for item in basket.items
        ],
        "unit": "latents",
    }


def recipe_file(loaded: Loaded, basket: Basket) -> Path:
    """The recipe in a file; the same recipe, the same file."""
    text = json.dumps(recipe_of(loaded, basket), indent=1) + "\n"
    file = downloads.served(sha256(text)) / "recipe.json"
    write_text(file, text)
    return file


def _recipe_link(loaded: Loaded, basket: Basket) -> str:
    return html.download("The current recipe as JSON", downloads.address(recipe_file(loaded, basket)))


def _example(loaded: Loaded) -> tuple[int, float]:
    frame = loaded.pack.neurons.frame
    return int(frame.loc[frame["score"].idxmax(), "neuron"]), loaded.alpha or 10.0
