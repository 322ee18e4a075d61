"""Adds to scores what other seeds of the same training tell of each neuron."""

from accelerate import Accelerator

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import claim, write_json, write_text
from cbsae_hub.models import SAE
from cbsae_hub.pipeline.score import output_of
from cbsae_hub.pipeline.sections import DictionarySection, SAESection, ScoresSection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import Scores
from cbsae_hub.studies.dictionary import as_markdown, seed_columns, summary
from cbsae_hub.studies.layer_saes import train_or_read


def compare_seeds(
    settings: DictionarySection, sae: SAESection, scores: ScoresSection, *, accelerator: Accelerator | None = None
) -> Scores:
    """Trains SAEs from other seeds, and adds the columns ``seed_...`` to the scores that are there.

    Goes on where an earlier call stopped. Writes dictionary.json and .md.

    Args:
        settings: Section `dictionary`.
        sae: Section `sae`, of which ``seed`` and ``output`` are not read.
        scores: Section `scores`, whose folder has the scores of the model.
        accelerator: The run's; default a new one.

    Returns:
        The scores with the new columns.

    Raises:
        ValueError: If a setting cannot be, the model is no SAE of these settings, or an SAE in the folder is of other
            settings.
        OSError: If the model has no scores, or something is missing.
    """
    accelerator = accelerator or make_accelerator(alone=True, mixed_precision=sae.mixed_precision)
    before, model = Scores.load(output_of(scores)), load(scores.model)
    if not isinstance(model, SAE):
        raise ValueError(f"{scores.model} is no SAE: seeds of an SAE are compared")
    of_training = {name: value for name, value in sae.config().to_dict(defaults=False).items() if name != "seed"}
    claim(settings.output, of_training)
    store, others = ActivationStore.open(sae.activations), []
    for seed in settings.seeds:
        config = sae.replace(seed=seed).config()
        others.append(train_or_read(config, store, settings.output / f"seed-{seed}", accelerator))
    if any((one.d_in, one.d_sae) != (model.d_in, model.d_sae) for one in others):
        raise ValueError(f"{scores.model} has another size than section `sae` trains: name the SAE of that section")
    options = settings.threshold, settings.alike
    columns = seed_columns(model, others, *options)
    figures = summary(columns, model, others, *options)
    write_json(settings.output / "dictionary.json", {"settings": settings.to_dict(defaults=False), **figures})
    write_text(settings.output / "dictionary.md", as_markdown(figures))
    after = before.with_dictionary(columns, figures)
    after.save(output_of(scores))
    return after
