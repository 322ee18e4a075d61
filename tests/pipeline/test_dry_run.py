import re
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from emoji_files import require_emoji_files
from safetensors.torch import load_file
from small_hub import Pictures
from tiny_models import build, processor
from transformers import BitImageProcessor

from cbsae_hub import CBSAE, SAE, VisionEncoder
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.pipeline import costs, dry_run
from cbsae_hub.pipeline.recipe import shipped
from cbsae_hub.trainers.cbsae.bottleneck import BottleneckState
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.run import CHECKPOINT_NAME, save_checkpoint
from cbsae_hub.trainers.sae.state import SAEState

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "cbsae_hub" / "pipeline" / "recipes"
REAL = ("llava-1.5-7b", "llava-more-dinov2", "unclip-2-1")
LAYERS = "dinov2-giant-all-layers"
TEXTS = ("sd-1-4-text", "llava-1.5-7b-language")
RECIPES = [
    *(SHIPPED / f"{name}.yaml" for name in (*REAL, LAYERS, *TEXTS)),
    *sorted((ROOT / "training" / "recipes").glob("*.yaml")),
]


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    """A machine with space for everything, in the folder that recipes are run in."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(costs, "free_bytes", lambda folder: 10**15)
    monkeypatch.setattr(costs, "device_memory", lambda: 10**13)
    monkeypatch.setattr(costs, "host_memory", lambda: 10**13)


def checked(path):
    run = dry_run.DryRun(path)
    run.run()
    return run


def changed(tmp_path, changes, name="llava-1.5-7b"):
    """The recipe with other settings, and without those that are None: ``{"sae.k": 5}``."""
    recipe = yaml.safe_load(shipped()[name])
    for place, value in changes.items():
        section, _, key = place.partition(".")
        where, key = (recipe.setdefault(section, {}), key) if key else (recipe, section)
        where.pop(key, None)
        if value is not None:
            where[key] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes(recipe):
    if recipe.parent != SHIPPED:
        require_emoji_files()
    run = checked(recipe)
    trained_first = "there is no folder runs/emoji-llava-dino", "there is no folder runs/emoji-clip-reader"
    assert [problem for problem in run.problems if not any(one in problem for one in trained_first)] == []
    assert run.doubts == [], "a recipe that comes with the package is large enough"
    sections = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    known = ("activations", "sae", "scores", "steerability", "cbsae", "evaluate", "ontology", "probing", "overlap")
    expected = [name for name in known if name in sections]
    assert [step.name for step in run.steps if step.name not in ("downloads", "names")] == expected
    if "sae" not in sections:  # a study of somebody else's SAE
        return
    assert run.sae.d_sae == sum(run.sae.group_sizes or [run.sae.d_sae]) == run.sae.d_in * sections["sae"]["expansion"]


def test_studies_of_layers_are_checked_against_the_encoder(tmp_path):
    run = checked(SHIPPED / f"{LAYERS}.yaml")
    steps = {step.name: step for step in run.steps}
    ((_, size),) = steps["ontology"].disk.values()
    assert size == 40 * 1_281_167 * 1536 * 2 and steps["ontology"].shapes.endswith("40 layers of 40")
    changes = {"ontology.layers": [40], "ontology.tree": "none.json", "probing.usual": "nothing"}
    problems = "\n".join(checked(changed(tmp_path, changes, LAYERS)).problems)
    assert "ontology: layers must be" in problems and "ontology: there is no tree none.json" in problems
    assert "probing: usual is 'nothing', which is none of the sets" in problems


def test_the_shapes_of_towers_that_read_texts(tmp_path):
    text, language = (checked(SHIPPED / f"{name}.yaml") for name in TEXTS)
    assert (text.encoder.d_in, text.encoder.layer, text.encoder.num_layers) == (768, 10, 12)
    assert "45 of at most 77 tokens" in text.steps[1].shapes and text.encoder.tokens_per_image == 45
    assert (language.encoder.d_in, language.encoder.layer, language.encoder.num_layers) == (4096, 16, 32)
    assert {
        path.name: size for path, size in [step.disk["store"] for step in language.steps if "store" in step.disk]
    } == {"llava-1.5-7b-language-activations": 50_000 * 32 * 4096 * 2}
    overlap = language.steps[-1]
    ((folder, size),) = overlap.disk.values()
    assert (overlap.name, folder.name, size) == ("overlap", "llava-1.5-7b-language-layers", 3 * 50_000 * 32 * 4096 * 2)
    wrong = checked(changed(tmp_path, {"overlap.layers": [32], "overlap.llava": "llava-hf/llava-1.5-7b-hf"}, TEXTS[1]))
    assert "overlap: layers must be" in "\n".join(wrong.problems)
    projector = {"model": "llava-hf/llava-1.5-7b-hf", "tower": "projector", "layer": 0}
    run = checked(changed(tmp_path, {"activations.encoder": projector}, TEXTS[1]))
    assert run.problems == [] and (run.encoder.tokens_per_image, run.encoder.num_layers) == (576, 1)
    for changes, problem in (
        ({"activations.encoder": {**projector, "layer": 1}}, "has 1 layers"),
        ({"activations.encoder": {**projector, "tokens": "answer"}}, "tokens must be image or random:n"),
        ({"activations.encoder": {**projector, "tower": "language", "tokens": "answer"}}, "tokens_per_text"),
        ({"activations.layer": 3}, "layer must stand in the mapping `encoder`"),
        ({"activations.images": "texts.txt"}, "only an encoder with tower: text reads them"),
    ):
        problems = checked(changed(tmp_path, changes, TEXTS[1])).problems
        assert any(problem in one for one in problems), problems


@pytest.mark.parametrize(("name", "tokens", "every"), zip(REAL, (2, 2, 1), (577, 257, 257)))
def test_the_real_ones_are_as_large_as_their_papers_say(name, tokens, every):
    run = checked(SHIPPED / f"{name}.yaml")
    steps = {step.name: step for step in run.steps}
    assert (run.encoder.d_in, run.encoder.num_layers, run.images) == (1024, 24, 1_281_167)
    assert f"{tokens} of {every} tokens" in steps["activations"].shapes
    (_, size), *_ = steps["activations"].disk.values()
    assert size == 1_281_167 * tokens * 1024 * 2
    assert run.sae.group_sizes == (4096, 8192, 16384, 36864)
    if "cbsae" in steps:
        assert steps["names"].shapes == "scores again, by the bottleneck's 4729 concepts"
        assert steps["names"].memory > steps["scores"].memory, "more concepts than those of the scores"
        assert (run.cb.d_sae, len(run.cb.concepts)) == (30_000, 4729)
        assert steps["cbsae"].disk["teacher's embeddings"][1] == 1_281_167 * 512 * 2
        assert steps["evaluate"].disk["what the encoder saw"][1] == 50_000 * every * 1024 * 4
        assert "to train and score: 1" in steps["evaluate"].shapes
        retained = 4 * (2 * 30_000 * 1024 + 30_000 + 1024 + 1 + 2 * 4729 * 1024)
        assert steps["evaluate"].disk["bottlenecks"][1] == pytest.approx(retained, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"activations.layer": 24}, "activations: .*24"),
        ({"activations.tokens": "some"}, "activations: tokens must be"),
        ({"activations.layers": 3}, "activations: unknown settings layers"),
        ({"activations.encoder": None}, "activations: the recipe lacks encoder"),
        ({"activations.dtype": "int8"}, "activations: dtype must be 'float16' or 'float32'"),
        ({"activations.encoder": "runs/nowhere"}, "activations: encoder: there is no folder runs/nowhere"),
        ({"activations.images": "no-owner"}, "activations: images: there is no folder no-owner"),
        ({"evaluate.judges": {"one": "no/such/id"}}, "evaluate: judges.one: there is no folder no/such/id"),
        ({"evaluate.variants": {"slip": {"lr": -1}}}, "evaluate: slip: lr must be greater than 0"),
        ({"evaluate.seed": 1}, "evaluate: unknown settings seed"),
        ({"dry_run.encoder": None}, "activations: .* is not here, so `dry_run.encoder` has to say"),
        ({"dry_run.images": None}, "activations: dry_run.images, the number of images of ILSVRC/imagenet-1k"),
        ({"dry_run.imags": 3}, "dry_run: unknown settings imags"),
        ({"sae.k": "many"}, "sae: k must be a valid integer"),
        ({"sae.k": 65_537}, "sae: k 65537 is more than the 65536 neurons"),
        ({"sae.group_fractions": [0.5, 0.6]}, "sae: group_fractions must be positive and sum to 1"),
        ({"sae.stepz": 5}, "sae: unknown settings stepz"),
        ({"sae.activations": "runs/others"}, "sae: activations is runs/others, but section `activations` writes"),
        ({"sae.batch_size": 3_000_000}, "sae: 2562334 activations are fewer than one batch"),
        ({"scores.model": "runs/others"}, "scores: model is runs/others, but section `sae` writes"),
        ({"scores.concepts": {"mine": "nowhere.txt"}}, "scores: .*nowhere.txt"),
        ({"scores.top_k": 60_000}, "scores: top_k must be .*50000"),
        ({"steerability.neurons": 70_000}, "steerability: neurons must be .*65536"),
        ({"cbsae.prune": {"by": "both", "count": 65_536}}, "cbsae: prune.count must be .*65535"),
        ({"cbsae.prune": {"by": "both"}}, "cbsae: prune takes exactly one of count, share and threshold"),
        ({"cbsae.cb_k": 4729}, "cbsae: cb_k 4729 is not less than the 4729 concepts"),
        ({"cbsae.scores": "runs/others"}, "cbsae: scores is runs/others, but section `scores` writes"),
        ({"cbsae.objectives": ["speed"]}, "cbsae: objectives must be"),
        (
            {"steerability": None, "cbsae.prune": {"by": "steerability", "count": 9}, "evaluate": None},
            "cbsae: pruning by steerability needs its section",
        ),
        ({"cbsae": None}, "evaluate: needs a section `cbsae`"),
        ({"cbase.k": 3}, "cbase: no section of any script"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_mistake_is_named_and_nothing_else(tmp_path, changes, problem):
    problems = checked(changed(tmp_path, changes)).problems
    assert len([one for one in problems if "has to be right first" not in one]) == 1, problems
    assert re.match(problem, problems[0]), problems


def test_of_several_layers_each_has_a_store(tmp_path):
    one, folder = checked(changed(tmp_path, {})), "runs/llava-1.5-7b-activations"
    settings = {"activations.layer": [1, 22], "cbsae.activations": f"{folder}/layer-22-random-2"}
    run = checked(changed(tmp_path, settings | {"sae.activations": f"{folder}/layer-22-random-2"}))
    assert not run.problems
    step, single = (next(one for one in each.records() if one["step"] == "activations") for each in (run, one))
    assert "2 of 577 tokens, width 1024, block 1, 22 of 24" in step["shapes"]
    assert step["disk"]["stores"] == 2 * single["disk"]["store"]
    (problem,) = checked(changed(tmp_path, settings | {"sae.activations": folder})).problems
    assert problem.endswith(f"section `activations` writes {folder}/layer-1-random-2, {folder}/layer-22-random-2")


def test_neurons_may_be_chosen_by_the_table_in_the_folder_of_their_model(tmp_path):
    assert checked(changed(tmp_path, {"cbsae.scores": "runs/llava-1.5-7b-sae"})).problems == []


def test_a_recipe_with_several_mistakes_tells_all(tmp_path):
    problems = checked(changed(tmp_path, {"activations.layer": 99, "scores.modle": "x", "cbsae.lr": -1})).problems
    assert [one.partition(":")[0] for one in problems] == ["activations", "sae", "scores", "cbsae", "evaluate"]


def test_what_is_too_large_for_the_machine(tmp_path, monkeypatch):
    path = changed(tmp_path, {"dry_run.models_gb": None, "dry_run.images_gb": 20, "evaluate": None})
    monkeypatch.setattr(costs, "free_bytes", lambda folder: 30 * 10**9)
    (problem,) = checked(path).problems
    assert problem.startswith("disk: ") and "30.0 GB are free" in problem
    assert "store 5.2 GB" in problem and "the same as Arrow 20.0 GB" in problem
    monkeypatch.setattr(costs, "free_bytes", lambda folder: 60 * 10**9)
    assert checked(path).problems == []
    monkeypatch.setattr(costs, "device_memory", lambda: 5 * 10**9)
    assert "sae: needs 5.9 GB of memory, the device has 5.0 GB" in checked(path).problems


def test_what_is_there_already_takes_no_more_space(tmp_path, monkeypatch):
    store = tmp_path / "store"
    read = ("activations.output", "sae.activations", "cbsae.activations")
    path = changed(tmp_path, dict.fromkeys(read, str(store)), "llava-more-dinov2")
    needed = sum(size for step in checked(path).steps for _, size in step.disk.values())
    monkeypatch.setattr(costs, "free_bytes", lambda folder: needed - 10**6)
    assert len(checked(path).problems) == 1
    store.mkdir()
    (store / "shard").write_bytes(bytes(2 * 10**6))
    assert checked(path).problems == []


def own_recipe(tmp_path, **facts):
    """A recipe of somebody's own encoder, whose config says 64 pixels, and whose processor makes 96 x 64."""
    model = build("Dinov2Model")
    model.save_pretrained(tmp_path / "encoder")
    BitImageProcessor(size={"height": 96, "width": 64}, do_center_crop=False).save_pretrained(tmp_path / "encoder")
    (tmp_path / "pictures").mkdir()
    for row, picture in enumerate(Pictures(10)["image"]):
        picture.save(tmp_path / "pictures" / f"{row}.png")
    activations = {"encoder": str(tmp_path / "encoder"), "layer": 1, "tokens": "patches", "output": "runs/mine"}
    sections = {
        "activations": {**activations, "images": str(tmp_path / "pictures"), "split": "train"},
        "sae": {"activations": "runs/mine", "output": "runs/sae", "expansion": 2, "k": 3, "heldout_fraction": 0.1,
                "steps": 50, "batch_size": 32},
        "dry_run": facts,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_an_encoder_that_is_not_square_is_read_by_its_processor(tmp_path):
    run = checked(own_recipe(tmp_path))
    encoder = VisionEncoder.from_pretrained(tmp_path / "encoder", 1, "patches")
    assert encoder.grid[0] != encoder.grid[1] and run.encoder.grid == encoder.grid
    assert run.encoder.tokens_per_image == encoder.tokens_per_image and run.problems == []


def test_height_and_width_may_be_told(tmp_path):
    facts = {"encoder": build("ViTModel").config.to_dict() | {"image_size": [96, 64]}, "images": 10}
    for told in (facts, facts | {"pixels": [96, 64]}, facts | {"pixels": [64, 96]}):
        path = changed(tmp_path, {"dry_run.encoder": None, "cbsae": None, "evaluate": None, "activations.layer": 0,
                                  "activations.tokens": "patches", "scores": None, "steerability": None,
                                  **{f"dry_run.{key}": value for key, value in told.items()}})  # fmt: skip
        run = checked(path)
        patch = run.encoder.model.config.patch_size
        height, width = told.get("pixels", [96, 64])
        assert run.encoder.grid == (height // patch, width // patch)


def test_what_is_too_small_is_said_as_the_trainer_says_it(tmp_path):
    path = own_recipe(tmp_path)
    run = checked(path)
    tokens = run.encoder.tokens_per_image
    config = SAETrainConfig(expansion=2, k=3, heldout_fraction=0.1, steps=50, batch_size=32)
    expected = config.doubts(9 * tokens, tokens, run.encoder.d_in)
    assert run.doubts == [f"sae: {doubt}" for doubt in expected] and len(expected) > 3
    assert run.problems == [], "it is no mistake"


# ---------------------------------------------------------------------------- figures against what is really made


def test_bytes_of_a_store(tmp_path):
    name = "CLIPVisionModelWithProjection"
    encoder = VisionEncoder(build(name), processor(name), 1, "patches", "tiny/clip")
    extract_activations(encoder, Pictures(300), tmp_path, source={"id": "pictures"}, images_per_shard=100)
    shape = costs.make_encoder(encoder.model.config, None, 1, "patches")
    expected = costs.store_bytes(300, shape.tokens_per_image, shape.d_in, "float16")
    (shard, *others) = sorted(tmp_path.glob("*.safetensors"))
    assert 3 * load_file(shard)["activations"].numel() * 2 == expected and len(others) == 2
    assert expected < costs.folder_bytes(tmp_path) < expected + 4000


SETTINGS = {"expansion": 4, "k": 3, "batch_size": 50, "dead_after_tokens": 40}


@pytest.mark.parametrize("activation", ["batch_topk", "topk", "jumprelu"])
def test_bytes_of_an_sae_in_training(tmp_path, activation):
    config = SAETrainConfig.from_dict({**SETTINGS, "activation": activation})
    shape = costs.make_sae(config, 64)
    assert all(tensor.is_meta for tensor in shape.parameters())
    state = SAEState(costs.make_sae(config, 64, "cpu"), config, Accelerator(cpu=True))
    state.update(torch.randn(50, 64))
    save_checkpoint(tmp_path / CHECKPOINT_NAME, state.tensors(), state.facts())
    size = (tmp_path / CHECKPOINT_NAME).stat().st_size
    assert costs.sae_checkpoint_bytes(shape) < size < costs.sae_checkpoint_bytes(shape) + 4000
    state.sae.save_pretrained(tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert costs.model_bytes(shape) <= size < costs.model_bytes(shape) + 2000

    held = [*state.sae.parameters(), *(one.grad for one in state.sae.parameters())]
    held += [tensor for name, tensor in state.optimizer.tensors().items() if "exp_avg" in name]
    total = sum(tensor.numel() * 4 for tensor in held) + 50 * shape.d_sae * 4  # and the latents of a batch
    worst = 3 * 50 * shape.d_sae * 4, state.sae.W_enc.numel() * 4
    assert costs.sae_memory(shape, config) == total + max(worst)


@pytest.mark.parametrize("objectives", [["reconstruction", "interpretability", "steerability"], ["interpretability"]])
def test_bytes_of_a_bottleneck_in_training(tmp_path, objectives):
    sae = SAE(64, 256, k=3, seed=0)
    sae.threshold.fill_(0.1)
    names = [f"concept {i}" for i in range(30)]
    cb = CBSAE.from_sae(sae, range(0, 256, 2), names, 5)
    config = CBSAETrainConfig.from_dict({"batch_size": 50, "objectives": objectives})
    state = BottleneckState(cb, config, torch.randn(50, 8), torch.randn(30, 8), Accelerator(cpu=True))
    state.update(torch.randn(50, 64), torch.arange(50))
    save_checkpoint(tmp_path / CHECKPOINT_NAME, state.tensors(), state.facts())
    shape = costs.make_bottleneck(costs.make_sae(SAETrainConfig.from_dict(SETTINGS), 64), 128, 30, 5)
    size, expected = (tmp_path / CHECKPOINT_NAME).stat().st_size, costs.bottleneck_checkpoint_bytes(shape, config)
    assert expected < size < expected + 4000
    cb.save_pretrained(tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert costs.model_bytes(shape) <= size < costs.model_bytes(shape) + 2000


def test_steps_are_told_as_data_too():
    run = checked(SHIPPED / "unclip-2-1.yaml")
    records = run.records()
    assert [record["step"] for record in records] == [step.name for step in run.steps]
    (store,) = records[1]["disk"].values()
    assert store == 1_281_167 * 1024 * 2 and records[1]["memory"] == run.steps[1].memory


def test_the_recipe_for_an_encoder_of_ones_own_passes_once_it_says_where_things_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("Dinov2Model").save_pretrained("my-encoder")
    processor("Dinov2Model").save_pretrained("my-encoder")
    Path("my-pictures").mkdir()
    for i, picture in enumerate(Pictures(400)["image"]):
        picture.save(f"my-pictures/{i}.png")
    Path("my-concepts.txt").write_text("\n".join(f"thing {i}" for i in range(20)))
    Path("my.yaml").write_text(shipped()["own-encoder"])
    run = checked(Path("my.yaml"))
    assert run.problems == [] and run.images == 400
    assert [step.name for step in run.steps] == ["activations", "sae", "scores", "cbsae"]
