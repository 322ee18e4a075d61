"""The base class of everything this package publishes on the Hugging Face Hub."""

import inspect
import json
import logging
import os
import shutil
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from huggingface_hub.utils import filter_repo_objects
from torch import Tensor, nn

from cbsae_hub.hub.files import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    ConfigError,
    ModelFileError,
    folder_revision,
    read_config,
    read_weights,
    require_finite,
    resolve_id,
    write_model,
)
from cbsae_hub.hub.locate import CARD_NAME, OTHERS, download_folder, find_in_folder, find_on_hub, is_commit
from cbsae_hub.hub.references import told_in, with_names
from cbsae_hub.hub.results import RESULTS, without_results_of_other_weights
from cbsae_hub.hub.upload import PublishError, Upload, files_of, publish, warn_of_foreign_ids
from cbsae_hub.models.provenance import Provenance
from cbsae_hub.version import __version__

__all__ = ["ConfigError", "HubModel", "ModelFileError", "folder_revision", "resolve_id"]

logger = logging.getLogger(__name__)

EVALUATION_NAME = "evaluation.json"
CONTROLS_NAME = "controls.json"
WORKED_NAME = "worked_examples.json"  # the page reads it
SCHEMA_VERSION = 1
OLDEST_SCHEMA_VERSION = 1
T = TypeVar("T", bound="HubModel")


def entry(name: str, meaning: str, part: str = "provenance") -> property:
    """A read-only attribute of a model, documented by ``meaning``: the entry ``name`` of its provenance, say."""

    def read(model: "HubModel") -> Any:
        return getattr(getattr(model, part), name)

    def refuse(model: "HubModel", value: object) -> None:
        raise AttributeError(
            f"{name} is an entry of the provenance and cannot be set alone; write model.provenance = "
            f"dataclasses.replace(model.provenance, {name}=...)"
        )

    read.__doc__ = meaning
    return property(read, refuse if part == "provenance" else None)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights for a file: also those that share storage are written in full, under their own names.

    Raises:
        ModelFileError: If one is NaN or infinite.
    """
    form: dict[str, Any] = {"device": "cpu", "copy": True, "memory_format": torch.contiguous_format}
    weights = {name: tensor.detach().to(**form) for name, tensor in model.state_dict().items()}
    require_finite(weights, type(model).__name__)
    return weights


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="cbsae_hub", pipeline_tag="feature-extraction"):
    """A model that loads and saves itself strictly: a file that does not fit is an error, never a default.

    A model is two files, ``config.json`` and ``model.safetensors``; nothing is ever unpickled. A subclass keeps every
    named parameter of its ``__init__`` as an attribute of the same name, and makes its ``provenance``, if it has one,
    of the other keyword arguments. It checks the values before it allocates, and raises ValueError for what it cannot
    take. It has persistent buffers only: loading builds it on the meta device and then puts the file's tensors in.

    Attributes:
        repo_id: Folder or Hub id from which the model was loaded, or None.
        revision: The commit on the Hub, or :func:`folder_revision` of the folder it came from, or None.
        provenance: Record of the model's origin, a ``provenance_class``. Its entries are read-only attributes of the
            model, too. None of a class that has no such record.
    """

    provenance_class: ClassVar[type[Provenance] | None] = None
    repo_id: str | None = None
    revision: str | None = None
    provenance: Provenance | None = None

    encoder_id = entry("encoder_id", "The encoder whose activations are explained.")
    encoder_revision = entry("encoder_revision", "Its revision.")
    layer = entry("layer", "The block whose output is read, 0-based.")
    tokens = entry("tokens", "Which tokens of an image were trained on.")
    preprocessing = entry("preprocessing", "What was done to the images.")
    tower = entry("tower", "Kind of tower that the layer is of: text, language or projector; None is a vision tower.")
    training_data = entry("training_data", "The data set, split and amount that the SAE was trained on.")

    @property
    def config(self) -> dict[str, Any]:
        """Content of config.json: class, versions, every argument of ``__init__``. A new dict each time."""
        stamp = {"model_class": type(self).__name__, "schema_version": SCHEMA_VERSION, "package_version": __version__}
        return json.loads(json.dumps(stamp | self.arguments))

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument of ``__init__``, with which another model of the same settings can be made."""
        arguments = {name: getattr(self, name) for name in _init_parameters(type(self))}
        return arguments | (vars(self.provenance) if self.provenance else {})

    # --------------------------------------------------------------------------------------------- loading

    @classmethod
    def from_pretrained(  # type: ignore[override]  # unknown arguments are errors, and go to no model
        cls: type[T],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> T:
        """Loads a model from a folder or from the Hub, in evaluation mode and in the dtype it was saved in.

        Args:
            pretrained_model_name_or_path: An existing folder, or an id on the Hub.
            revision: Branch, tag or commit on the Hub. Of a folder, and also on the Hub: what
                :func:`folder_revision` must say.
            device: Device of the weights.
            token: Access token of the Hub; default the stored one.
            cache_dir: Folder of downloads; default the Hub's cache.
            force_download: Download even what is in the cache.
            local_files_only: Use the cache only.

        Raises:
            ModelFileError: If a file is missing, unreachable, damaged or does not match the config.
            ConfigError: If the config has an unknown, missing or bad entry, or is of another class or schema.
        """
        source = str(pretrained_model_name_or_path)
        if os.path.isdir(source):
            config_path, weights_path, commit = find_in_folder(Path(source), revision)
        else:
            downloads = dict(
                token=token, cache_dir=cache_dir, force_download=force_download, local_files_only=local_files_only
            )
            config_path, weights_path, commit = find_on_hub(source, revision, downloads)
        model = cls.described_by(config_path)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict(read_weights(weights_path, shapes, device), strict=True, assign=True)
        model.repo_id, model.revision = source, commit
        return model.eval()

    @classmethod
    def described_by(cls: type[T], config_path: Path) -> T:
        """The model of a config.json without its weights, on the meta device.

        Raises:
            ConfigError: If the config has an unknown, missing or bad entry, or is of another class or schema.
        """
        arguments = cls._arguments_from(read_config(config_path), config_path)
        try:
            with torch.device("meta"):  # a config that lies about sizes costs no memory
                return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{config_path}: {error}") from error

    @classmethod
    def _arguments_from(cls, config: dict[str, Any], path: Path) -> dict[str, Any]:
        """The arguments of ``__init__`` in a config, after a check of everything else."""
        config = dict(config)
        schema = config.pop("schema_version", None)
        if isinstance(schema, bool) or not isinstance(schema, int):
            raise ConfigError(f"{path} has no schema_version: not a config of this package; {OTHERS}")
        if schema > SCHEMA_VERSION:
            raise ConfigError(
                f"{path} has schema version {schema}, this is cbsae_hub {__version__} and knows up to "
                f"{SCHEMA_VERSION}: pip install -U cbsae_hub"
            )
        if schema < OLDEST_SCHEMA_VERSION:
            raise ConfigError(f"{path} has schema version {schema}; the oldest known is {OLDEST_SCHEMA_VERSION}")
        name = config.pop("model_class", None)
        if name != cls.__name__:
            raise ConfigError(f"{path} describes a {name!r:.80}, not a {cls.__name__}: load it with that class")
        config.pop("package_version", None)
        parameters = _init_parameters(cls)
        entries = fields(cls.provenance_class) if cls.provenance_class else ()
        keys = [*parameters, *(field.name for field in entries)]
        if unknown := sorted(config.keys() - set(keys)):
            raise ConfigError(f"{path} has unknown keys {str(unknown):.300}; {cls.__name__} knows {', '.join(keys)}")
        required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
        if missing := sorted(required - config.keys()):
            raise ConfigError(f"{path} lacks {', '.join(missing)}")
        return config

    # ---------------------------------------------------------------------------------------------- saving

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_arguments: Any,
    ) -> str | None:
        """Writes config.json, model.safetensors and a card.

        At every moment the folder holds the old model, the new one, or one without a config, which does not load. A
        README.md that was edited by hand, or written by other code, is kept.

        Args:
            save_directory: The folder; made if needed.
            repo_id: Hub id that the card's example loads; default the folder's name.
            push_to_hub: Also push the folder, to ``repo_id`` or the folder's name.
            **push_arguments: See :meth:`push_to_hub`.

        Returns:
            The URL of the commit if pushed.

        Raises:
            ModelFileError: If a weight is NaN or infinite.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, folder=folder, **push_arguments)
        write_model(folder / CONFIG_NAME, self.config, folder / WEIGHTS_NAME, weights_of(self))
        _write_card(folder, repo_id)
        return None

    def push_to_hub(  # type: ignore[override]  # no patterns of files to delete, and no settings of cards
        self,
        repo_id: str,
        *,
        folder: str | Path | None = None,
        overwrite_card: bool = False,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        ignore_patterns: str | list[str] | None = None,
    ) -> str:
        """Publishes the model in one commit: weights, config, card, and what lies beside them.

        A model that was loaded from a folder, and whose weights have not changed, takes along everything in it: pack,
        evaluation, pictures. One that was loaded from the Hub takes along its card and its results. A results file
        that names other weights stays behind.

        Args:
            repo_id: The repository; made if needed.
            folder: Save here first and push everything in it (card, pack, ...); default a temporary folder.
            overwrite_card: Replace the README.md on the Hub even if it was edited by hand there.
            commit_message: Default "Upload SAE with cbsae_hub 0.1.0".
            private: Whether a new repository is private.
            token: Access token; default the stored one.
            branch: An existing branch to push to; default main.
            create_pr: Open a pull request instead.
            ignore_patterns: Files to leave out, "*.png" or "drawings/".

        Returns:
            The URL of the commit, or of the pull request.

        Raises:
            ModelFileError: If a weight is NaN or infinite.
            PublishError: If the Hub refuses or is out of reach; says what to do. Nothing was committed then,
                unless it says otherwise.
        """
        with TemporaryDirectory() as temporary:
            source = Path(temporary if folder is None else folder)
            files = self._save_with_results(source, repo_id, token)
            warn_of_foreign_ids(source)
            files = {path: files[path] for path in filter_repo_objects(files, ignore_patterns=ignore_patterns)}
            if not files:
                raise PublishError(f"{repo_id} was not published: {ignore_patterns} leaves nothing of it")
            rewritten = {path: text for path, text in with_names(source, told_in(source)).items() if path in files}
            sizes = {path: len(text) for path, text in rewritten.items()}
            published = publish(
                Upload(source, repo_id, "model", files | sizes, rewritten),
                token=token,
                private=private,
                create_pr=bool(create_pr),
                overwrite_card=overwrite_card,
                message=commit_message or f"Upload {type(self).__name__} with cbsae_hub {__version__}",
                branch=branch,
            )
        return published.url

    def _save_with_results(self, folder: Path, repo_id: str, token: str | None) -> dict[str, int]:
        """Saves into a folder, with the files beside these weights; returns the files to publish, with their sizes."""
        origin = folder if (folder / WEIGHTS_NAME).is_file() else self._origin(token)
        before = folder_revision(origin) if origin and (origin / WEIGHTS_NAME).is_file() else None
        self.save_pretrained(folder, repo_id=repo_id)
        changed = before not in (None, folder_revision(folder))
        if origin == folder:
            return without_results_of_other_weights(folder, files_of(folder), changed)
        if origin is not None and before is not None:
            files = files_of(origin)
            if is_commit(self.revision):  # others may have downloaded more of it
                files = {path: size for path, size in files.items() if path in (CARD_NAME, *RESULTS)}
            files = without_results_of_other_weights(origin, files, changed)
            for path in () if changed else files.keys() - {CONFIG_NAME, WEIGHTS_NAME}:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin / path, folder / path)
            _write_card(folder, repo_id)
        return files_of(folder)

    def _origin(self, token: str | None) -> Path | None:
        """The folder that the model was loaded from; of one on the Hub, a copy of its weights, results and card."""
        if self.repo_id is None:
            return None
        if is_commit(self.revision):
            try:
                names = (WEIGHTS_NAME, CARD_NAME, *RESULTS)
                return download_folder(self.repo_id, self.revision, names, {"token": token})
            except ModelFileError as error:
                logger.warning("not published, what lies beside the weights in %s: %s", self.repo_id, error)
                return None
        if not Path(self.repo_id).exists():
            logger.warning("not published, what lay beside the weights in %s: it is not there", self.repo_id)
        return Path(self.repo_id)

    # ------------------------------------------------------------------------------------------------ card

    def generate_model_card(self, *, repo_id: str | None = None) -> ModelCard:
        """The card of this model, from its settings alone. :func:`cbsae_hub.cards.write.write_card` reads results too.

        Args:
            repo_id: Hub id of the model, for the example; default where it was loaded from.
        """
        from cbsae_hub.cards.write import Facts, render_card  # here, so that a model loads without what writes cards

        return ModelCard(render_card(Facts(config=self.config), repo_id or self.repo_id or "user/model"))


def _write_card(folder: Path, repo_id: str | None) -> None:
    from cbsae_hub.cards.write import write_card  # see above

    write_card(folder, repo_id)


def _init_parameters(cls: type[HubModel]) -> dict[str, inspect.Parameter]:
    """The named parameters of ``__init__``."""
    _, *parameters = inspect.signature(cls.__init__).parameters.values()  # without self
    return {each.name: each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
