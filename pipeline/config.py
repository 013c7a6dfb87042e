"""Configuration files: YAML that states only what differs, `--set a.b=c`, and one error for all mistakes."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.paths import config_path, expand
from pipeline.plain_text import EncodingError, decoded, did_you_mean
from pipeline.yaml_files import dump_yaml, read_yaml_text

Model = TypeVar("Model", bound=BaseModel)
INCLUDES = ("cache", "train", "student")  # keys whose value may be the path of another file
FILES = {  # what a file for other verbs is known by
    "CacheConfig": ({"dataset", "store"}, "sward plan and sward extract"),
    "TrainConfig": ({"cache", "student"}, "sward train and sward fit-head"),
    "CompareConfig": ({"train", "methods"}, "sward compare"),
    "QualityConfig": ({"train", "stores"}, "sward quality"),
}
MOST_VALUES = 100_000  # of one file; few aliases of aliases write out as more than any memory holds

FOLLOWS = "default_factory_not_called"  # a default that depends on a field with a mistake of its own

UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base ** (i + 1)
    for i, letter in enumerate("KMGTP")
    for suffix, base in (("B", 1000), ("iB", 1024))
}


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, together."""


def load_config(model: type[Model], path: str | Path, overrides: Iterable[str] = ()) -> Model:
    """Read, include, override, validate.

    Args:
        model: the pydantic model the file describes.
        path: YAML file; paths inside it are relative to the working directory.
        overrides: `a.b=value` texts; the value is YAML (`lr=1e-3`, `size=[256,256]`).

    Raises:
        ConfigError: the file is missing or no YAML mapping, or values are wrong: all mistakes at once.
    """
    values = read_yaml(Path(path))
    for text in overrides:
        override(values, text)
    include(values, (Path(path),))
    return validate(model, values, str(path))


def validate(model: type[Model], values: Any, source: str) -> Model:
    """The model, or ConfigError with one line for every mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [mistake_line(mistake, model) for mistake in error.errors() if mistake["type"] != FOLLOWS]
        raise ConfigError(
            "\n".join([f"{source} is not a valid {model.__name__}:{_hint(model, values)}", *lines])
        ) from None


def mistake_line(mistake: Any, model: type[BaseModel]) -> str:
    """One of pydantic's mistakes as a line: the place, what was expected there, and what was found."""
    where = ".".join(str(part) for part in mistake["loc"]) or "(whole)"
    if mistake["type"] == "extra_forbidden":
        meant = did_you_mean(str(mistake["loc"][-1]), _keys(model, mistake["loc"][:-1]))
        remedy = meant or "remove it or correct its name"
        return f"  {where}: unknown key; {remedy}"
    return f"  {where}: {mistake['msg']}; found {mistake['input']!r:.80}"


def _keys(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """The names that are known at a place within a model's values; a union's kind is a part of the place."""
    known: list[Any] = [model]
    for part in place:
        fields = [f.annotation for m in known if part in m.model_fields for f in [m.model_fields[part]]]
        known = models_in(fields) or [m for m in known if kind_of(m) == part] or known
    return sorted({name for m in known for name in m.model_fields})


def models_in(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    """The models in types, however they are nested in unions, lists and annotations."""
    found: list[type[BaseModel]] = []
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        else:
            found += models_in(get_args(annotation))
    return found


def kind_of(model: type[BaseModel]) -> Any:
    """The value of ``kind`` that selects a model; None for a model without one."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _hint(model: type[BaseModel], values: Any) -> str:
    """What the file looks like, if it looks like one for another verb."""
    for name, (keys, verbs) in FILES.items():
        if name != model.__name__ and isinstance(values, dict) and keys <= values.keys():
            return f" this looks like a {name}, for {verbs}"
    return ""


def read_yaml(path: Path, within: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with its includes read in.

    Args:
        path: the file.
        within: files that include it, outermost first.

    Raises:
        ConfigError: the file is missing, no YAML mapping, or includes itself.
    """
    if path.resolve() in [file.resolve() for file in within]:
        chain = " includes ".join(str(file) for file in [*within, path])
        raise ConfigError(f"{chain}, which never ends; `cache:`, `train:` and `student:` must name other files")
    try:
        values = read_yaml_text(decoded(config_path(path).read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; give the path of a YAML file"
        ) from error
    except EncodingError as error:
        raise ConfigError(f"{path}: {error}; save the file as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not YAML: nested too deeply") from error
    if is_too_large(values):
        raise ConfigError(f"{path}: more than {MOST_VALUES:,} values with its aliases (*name) written out; remove them")
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    include(values, (*within, path))
    return values


def is_too_large(value: Any) -> bool:
    """Whether a YAML value has more than ``MOST_VALUES`` parts, those of aliases counted at each use."""
    left, count = [value], 0
    while left and count <= MOST_VALUES:
        value, count = left.pop(), count + 1
        left += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return count > MOST_VALUES


def include(values: dict[str, Any], within: tuple[Path, ...] = ()) -> None:
    """Replace the path of another file by what it says, in place; of a list, every path."""
    for key in INCLUDES:
        if isinstance(value := values.get(key), list):
            values[key] = [included(part, within) for part in value]
        elif key in values:
            values[key] = included(value, within)


def included(value: Any, within: tuple[Path, ...]) -> Any:
    """What the file says that ``value`` is the path of; ``value`` itself if it is no text."""
    return read_yaml(Path(expand(value)), within) if isinstance(value, str) else value


def override(values: dict[str, Any], text: str) -> None:
    """Apply one `a.b=value` to nested values, in place."""
    name, sign, value = text.partition("=")
    if not sign or not all(name.split(".")):
        raise ConfigError(f"--set {text}: expected name=value, e.g. --set optimizer.lr=1e-3")
    *parents, last = name.split(".")
    for part in parents:
        values = values.setdefault(part, {}) if isinstance(values, dict) else entry(values, part)
        if not isinstance(values, dict | list):
            raise ConfigError(f"--set {text}: {part} is not a group of settings")
    if not isinstance(values, dict):
        raise ConfigError(f"--set {text}: {name} is an entry of a list; set the whole list, or a setting in an entry")
    if last == "preset":
        values.clear()  # a preset fills what is not stated; over a resolved file it would fill nothing
    try:
        values[last] = parse_value(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not YAML: {error}") from error


def entry(values: list[Any], number: str) -> Any:
    """The entry of a list that a name such as `cache.0.store` means; None if there is none."""
    return values[int(number)] if number.isdecimal() and int(number) < len(values) else None


def parse_value(text: str) -> Any:
    """A YAML scalar or list, read as in files: 1e-3 is a number, '1e-3' a text."""
    return read_yaml_text(text)


def as_overrides(values: dict[str, Any]) -> list[str]:
    """{"a.b": 1} as ["a.b=1"]: how a Prefect parameter reaches the same loader."""
    return [
        f"{name}={dump_yaml(value, default_flow_style=True).strip().removesuffix('...').strip()}"
        for name, value in values.items()
    ]


def parse_size(text: str, name: str = "--budget") -> int:
    """Bytes of ``200GB`` (decimal), ``180 GiB`` (binary), ``1.5TB``, ``4096``.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if not found or found[2].lower() not in units:
        raise ValueError(f"{name} {text}: expected a size such as 200GB, 180GiB, 1.5TB or 500MB")
    return int(float(found[1]) * units[found[2].lower()])
