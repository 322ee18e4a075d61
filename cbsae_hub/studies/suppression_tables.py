"""Tables of :mod:`cbsae_hub.studies.suppression`, and the pictures that fire the suppressed features most."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.groups import GroupedImages
from cbsae_hub.data.images import image_batches, read_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.metrics.spurious import RULES
from cbsae_hub.neurons.pack import Example
from cbsae_hub.steering.latents import SteerableSAE, read_latents, weight_dtype
from cbsae_hub.steering.suppression import edited_tokens, image_latents
from cbsae_hub.studies.suppression import NONE
from cbsae_hub.studies.tables import markdown_table

SIDE = 128  # pixels of a picture
FIGURES = ("overall", "worst")


def summary(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Means and standard deviations over seeds.

    Args:
        results: What :meth:`cbsae_hub.studies.suppression.LayerStudy.run` returned, of each layer.

    Returns:
        One row per layer, method and rule: ``features`` (mean number), ``seeds``, and for ``val`` and ``test`` the
        columns ``..._overall`` and ``..._worst`` with ``..._std`` (0 of a single seed), 0..1.
    """
    flat = [
        {
            "layer": one["layer"], "method": row["method"], "rule": row["rule"], "features": row["size"],
            **{f"{split}_{name}": row[split][name] for split in ("val", "test") for name in FIGURES},
        }
        for one in results
        for row in one["rows"]
    ]  # fmt: skip
    groups = pd.DataFrame(flat).groupby(["layer", "method", "rule"], sort=False)
    means, deviations = groups.mean(), groups.std(ddof=1).drop(columns="features").fillna(0.0).add_suffix("_std")
    return means.join(deviations).join(groups.size().rename("seeds")).reset_index()


def best_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The row of each method and rule whose worst group, then all images, are best on the validation split."""
    ordered = table.sort_values(["val_worst", "val_overall"], ascending=False, kind="stable")
    best = ordered.groupby(["method", "rule"], sort=False).head(1).set_index(["method", "rule"])
    keys = table[["method", "rule"]].drop_duplicates()  # in the order of the table
    return best.loc[list(keys.itertuples(index=False, name=None))].reset_index()[table.columns]


def as_markdown(table: pd.DataFrame, best: pd.DataFrame) -> str:
    """The tables as they stand in the documentation: layers as in the paper, then the best layer of each method."""
    return (
        "Accuracy on the test split in per cent, mean and standard deviation over seeds; tau was chosen on the "
        "validation split. Every layer:\n\n"
        f"{_lines(table)}\nThe layer that the validation split chooses:\n\n{_lines(best)}"
    )


def _lines(table: pd.DataFrame) -> str:
    """A line per layer and method, or per method where the rules chose other layers."""
    lines: dict[tuple[Any, str], dict[str, str]] = {}
    for row in table.to_dict("records"):
        layer = "-" if row["method"] == NONE else str(row["layer"])
        line = lines.setdefault((layer, row["method"]), {"layer": layer, "method": row["method"]})
        line |= {f"{row['rule']}: {name}": _cell(row, name) for name in FIGURES}
        line[f"{row['rule']}: features"] = f"{row['features']:.0f}"
    columns = ["layer", "method", *(f"{rule}: {name}" for rule in RULES for name in (*FIGURES, "features"))]
    return markdown_table(pd.DataFrame(list(lines.values()), columns=columns).fillna(""))


def _cell(row: Mapping[str, Any], name: str) -> str:
    spread = f" +- {100 * row[f'test_{name}_std']:.1f}" if row["seeds"] > 1 else ""
    return f"{100 * row[f'test_{name}']:.1f}{spread}"


@torch.no_grad()
def pictures_of(
    encoder: VisionEncoder,
    sae: SteerableSAE,
    split: GroupedImages,
    features: Sequence[int],
    batch: int = 64,
    rows: int = 8,
    columns: int = 6,
) -> tuple[list[list[Example]], list[str]]:
    """The pictures that fire features most, with the places in them.

    Args:
        encoder: The encoder at the SAE's layer, with all tokens.
        sae: See :func:`cbsae_hub.steering.suppression.suppress`.
        split: The pictures.
        features: Numbers of the features, of which the first ones are shown.
        batch: Images at once.
        rows: Number of features, at most.
        columns: Pictures of each.

    Returns:
        The examples of each feature, strongest first, and a title for each.
    """
    numbers, span = torch.as_tensor(features[:rows]), edited_tokens(encoder, sae)
    sae = sae.to(encoder.device).eval()
    parts = []
    for _, pictures in tqdm(image_batches(split.images, batch), total=-(-len(split.images) // batch), desc="pictures"):
        latents = image_latents(sae, encoder(pictures)[:, span])
        parts.append((latents.to_dense() if latents.is_sparse else latents)[:, numbers.to(latents.device)].cpu())
    activations = torch.cat(parts)
    strips, titles = [], []
    for column, feature in enumerate(numbers.tolist()):
        values, ids = activations[:, column].topk(min(columns, len(activations)))
        strips.append([_example(encoder, sae, split, feature, int(i), float(v)) for i, v in zip(ids, values)])
        share = split.attribute[ids].float().mean()
        titles.append(f"feature {feature}\n{share:.0%} with the attribute")
    return strips, titles


def _example(
    encoder: VisionEncoder, sae: SteerableSAE, split: GroupedImages, feature: int, image: int, value: float
) -> Example:
    """One picture as the encoder sees it, with the feature's activation at each patch."""
    [picture] = read_images(split.images, image, image + 1)
    span, rows = edited_tokens(encoder, sae), encoder.patch_rows
    v = encoder([picture]).to(weight_dtype(sae))
    patch_map = None
    if span.start != 0 or span.stop is None:  # CLS alone has no places
        patches: Tensor = read_latents(sae, v[:, rows]).columns([feature])[0, :, 0]
        patch_map = (patches / patches.max().clamp_min(1e-9)).reshape(encoder.grid).cpu().numpy()
    return Example(image, value, patch_map, encoder.show(picture, SIDE), f"image {image}")
