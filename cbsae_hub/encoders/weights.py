"""Models of transformers with all of their weights: none of them random, none of another form than the config says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

# While transformers loads a model, it replaces PreTrainedModel.tie_weights, and puts it back afterwards. Of two loads
# that overlap, one may put back what the other had put there: from then on no model of this process ties its weights,
# and a LLaVA answers by an output layer of random numbers.
alone = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' reports on a text tower that stays in the file, and on DINOv3's processor without PIL.

    One thread loads at a time, see ``alone``.
    """
    with alone:
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        try:
            yield
        finally:
            transformers.logging.set_verbosity(verbosity)


def load_weights(
    model: str, name: str | Path, pretrained_model_name_or_path: str, **options: Any
) -> tuple[Any, list[str]]:
    """A model of a class of transformers, and the names of the weights that it lacks, which are random.

    Errors call it ``name``; ``options`` are further arguments of ``from_pretrained``.

    Raises:
        OSError: If there are no safetensors weights.
        ValueError: If weights are of another form than the config says.
    """
    with quiet():
        try:
            loaded, report = getattr(transformers, model).from_pretrained(
                pretrained_model_name_or_path,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
        except OSError as error:
            if "use_safetensors" not in str(error):
                raise
            raise OSError(
                f"{name} has no *.safetensors weights, and pickles are not read. If its page on the Hub has a "
                "pull request 'Adding `safetensors` variant', give its number, revision='refs/pr/1' or another"
            ) from error
    if others := sorted(report["mismatched_keys"]):
        weight, has, expected = others[0]
        raise ValueError(
            f"{name} does not fit its config.json: {weight} is {tuple(has)}, and the config asks for "
            f"{tuple(expected)} ({len(others)} such). Mend the config, or take another copy"
        )
    return loaded, sorted(report["missing_keys"])


def load_complete(model: str, name: str | Path, pretrained_model_name_or_path: str, **options: Any) -> Any:
    """A model that lacks no weights; arguments and errors as :func:`load_weights`.

    Raises:
        ValueError: Also if weights are missing.
    """
    loaded, missing = load_weights(model, name, pretrained_model_name_or_path, **options)
    require_complete(model, missing, name)
    return loaded


def require_complete(model: str, missing: list[str], name: str | Path) -> None:
    """Raises ValueError if there are missing weights."""
    if missing:
        raise ValueError(f"{name} lacks weights of a {model}, which would be random: {', '.join(missing):.200}")
