"""From texts to named neurons by the commands alone, with a recipe that names a tower."""

import yaml
from text_sae import PROMPTS, planted

from cbsae_hub import Pack


def test_a_recipe_that_names_a_text_encoder_leads_to_a_pack(answer, cbsae, tmp_path):
    folder, texts = planted(tmp_path), str(tmp_path / "prompts.txt")
    sae = {"activations": str(folder / "store"), "output": str(folder / "trained"), "expansion": 2, "k": 2, "steps": 20,
           "batch_size": 16, "warmup_steps": 2, "heldout_fraction": 0.2, "dead_after_tokens": 500}  # fmt: skip
    encoder = {"model": str(folder / "clip"), "tower": "text", "layer": 0}
    recipe = {
        "activations": {"encoder": encoder, "images": texts, "output": str(folder / "store")},
        "sae": sae,
        "words": {"model": str(folder / "trained"), "images": texts, "output": str(folder / "scores")},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    letters = sum(len(text) for text in PROMPTS)
    assert answer("extract", "--recipe", path)["rows"] == letters
    assert cbsae("train", "--recipe", path).exit_code == 0
    figures = answer("score", "--recipe", path, "--words")["figures"]
    assert 0 < figures["L0"] <= 32 and "names above chance" in figures
    assert answer("pack", folder / "trained", "--scores", folder / "scores")["named"] > 0
    pack = Pack.from_pretrained(folder / "trained")
    named = next(row for row in pack.neurons if row.name)
    assert pack.contexts(named.neuron)[0].passage in PROMPTS
    card = (folder / "trained" / "README.md").read_text()
    assert "explained_tower" in card and "12 texts of" in card and "with their words as names" in card
