"""Loading a model of this package without saying which class it is."""

from pathlib import Path
from typing import Any

from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.models.fetch import download
from cbsae_hub.models.files import CONFIG_NAME, ConfigError, ModelFileError, read_config
from cbsae_hub.models.sae import SAE

CLASSES = {cls.__name__: cls for cls in (SAE, CBSAE)}


def load(source: str | Path, *, revision: str | None = None, **options: Any) -> SAE | CBSAE:
    """Loads the SAE or concept bottleneck SAE of a folder or Hub id, whichever its config names.

    Args:
        source: Folder or Hub id.
        revision: See :meth:`cbsae_hub.models.HubModel.from_pretrained`.
        **options: Likewise.

    Raises:
        ModelFileError: If a file is missing or damaged.
        ConfigError: If the config is of no model of this package.
    """
    folder = Path(source)
    if folder.is_dir():
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise ModelFileError(f"{folder} has no {CONFIG_NAME}: it is not a model, or its saving was interrupted")
    else:
        wanted = ("token", "cache_dir", "force_download", "local_files_only")
        path = download(str(source), CONFIG_NAME, revision, {k: v for k, v in options.items() if k in wanted})
    name = read_config(path).get("model_class")
    if name not in CLASSES:
        raise ConfigError(f"{path} describes a {name!r:.80}; this package has {' and '.join(CLASSES)}")
    return CLASSES[name].from_pretrained(source, revision=revision, **options)
