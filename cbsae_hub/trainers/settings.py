"""The base of all settings that people write: types and ranges are checked, and errors name what is wrong."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import Self


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number")
    return value


Integer = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, gt=0)]
Natural = Annotated[int, Field(strict=True, ge=0)]
# Not strict: YAML reads 1e-4 as text.
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_truth_value)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Flag = Annotated[bool, Field(strict=True)]

SettingsType = TypeVar("SettingsType", bound="Settings")


class Settings:
    """Base of the dataclasses of settings, which check types, ranges and names of what people write."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Makes settings of a recipe's section or of a stored ``training.json``.

        Raises:
            ValueError: Names the settings that are missing, unknown, of a wrong type or out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # every subclass is one
        if missing := cls.lacking(settings):
            raise ValueError(f"the recipe lacks {', '.join(missing)}")
        if unknown := sorted(map(str, settings.keys() - set(names))):
            nearest = [match for name in unknown for match in difflib.get_close_matches(name, names, 1)]
            hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
            raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(names)}{hint}")
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ValueError(_in_words(error, settings)) from error

    @classmethod
    def lacking(cls, settings: Mapping[str, Any]) -> list[str]:
        """Names of the settings that have no default and are missing.

        Args:
            settings: See :meth:`from_dict`.
        """
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        required = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
        return [name for name in required if settings.get(name) is None]

    def to_dict(self, *, defaults: bool = True) -> dict[str, Any]:
        """The settings as JSON has them.

        Args:
            defaults: Whether settings that have their default are included.
        """
        return TypeAdapter(type(self)).dump_python(self, mode="json", exclude_defaults=not defaults)

    def replace(self, **changes: Any) -> Self:
        """These settings with some changed.

        Raises:
            ValueError: See :meth:`from_dict`.
        """
        return self.from_dict({**_values(self, type(self)), **changes})

    def part(self, kind: type[SettingsType]) -> SettingsType:
        """The settings of one of the classes that this one inherits from."""
        return kind(**_values(self, kind))


def _values(settings: Settings, kind: type[Settings]) -> dict[str, Any]:
    """Values by name of those settings that a class has."""
    return {one.name: getattr(settings, one.name) for one in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _in_words(error: ValidationError, settings: Mapping[str, Any]) -> str:
    """Names each setting that is wrong, what it must be, and what it is."""
    clauses: dict[str, None] = {}
    kinds: dict[str, tuple[list[str], Any]] = {}  # by name: a setting may be one of several kinds
    for detail in error.errors(include_url=False):
        name, value = _place(detail["loc"], settings)
        last = detail["loc"][-1] if detail["loc"] else ""
        if detail["type"] == "value_error":  # a rule of __post_init__, in its own words
            clauses[str(detail["ctx"]["error"])] = None
        elif detail["type"] == "missing":
            clauses[f"{name} lacks {f'item {last + 1}' if isinstance(last, int) else last}"] = None
        elif detail["type"] == "unexpected_keyword_argument":
            clauses[f"{name} is an unknown setting"] = None
        else:
            rule = detail["msg"].removeprefix("Input should be ").partition(", unable")[0]
            kinds.setdefault(name, ([], value))[0].append(rule)
    for name, (rules, value) in kinds.items():
        clauses[f"{name} must be {' or '.join(dict.fromkeys(rules))}, got {value!r}"] = None
    return "; ".join(clauses)


def _place(location: tuple[int | str, ...], settings: Mapping[str, Any]) -> tuple[str, Any]:
    """A setting's name with its place in a list or a mapping, and its value."""
    name = ""
    value: Any = settings
    for part in location:
        try:
            value = value[part]
        except (LookupError, TypeError):  # what is missing, or the name of a type
            continue
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name, value
