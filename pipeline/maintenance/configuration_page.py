"""Writes the reference of configuration keys from the pydantic models: every key, its type, default and meaning."""

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.cache.config import CacheConfig
from pipeline.datasets.card import Card
from pipeline.experiments.compare_config import CompareConfig
from pipeline.experiments.quality import QualityConfig
from pipeline.training.config import Bytes, TrainConfig

ROOTS: dict[str, type[BaseModel]] = {  # heading -> model of a file, in the order of use
    "Data-set card": Card,
    "Cache config": CacheConfig,
    "Train config": TrainConfig,
    "Comparison": CompareConfig,
    "Quality curve": QualityConfig,
}
FILES = {
    "Data-set card": "`card.yaml` beside a data set; read when a cache config names it.",
    "Cache config": "For `sward plan` and `sward extract`; `configs/cache/` has examples.",
    "Train config": "For `sward train` and `sward fit-head`; `configs/train/` has examples.",
    "Comparison": "For `sward compare` and `sward quickstart`; `configs/compare/` has examples.",
    "Quality curve": "For `sward quality`; `configs/quality/` has an example.",
}
INTRO = """
A file states only what differs from the defaults. Unknown keys are errors, and all mistakes of a file are reported
together. The resolved configuration is saved with every store and run.

Where a value is a group of settings, its keys are in the table that the type links to. Where a group has a `kind`, that
key selects the table. On the command line a key in a group is written with dots: `--set optimizer.lr=1e-3`. A key whose
value is a path of another file (`cache`, `train`) takes that file's contents in its place; a list of paths for `cache`,
those of every file.

Sizes in bytes are written as `20GB`, `180GiB` or a number. Paths are relative to the current folder; `data/…` is looked
for under `$SWARD_DATA` first.
"""
BOUNDS = {Ge: "≥ {}", Gt: "> {}", Le: "≤ {}", Lt: "< {}"}


def page() -> str:
    """The whole page as Markdown."""
    parts = ["# Configuration keys", INTRO.strip(), *contents()]
    for heading, root in ROOTS.items():
        parts += [f"## {heading}", FILES[heading], section(root)]
    parts.append("## Groups of settings")
    for model in nested():
        parts += [f"### {model.__name__}", section(model)]
    return "\n\n".join(parts) + "\n"


def contents() -> list[str]:
    """List of the files with links to their tables."""
    return ["\n".join(f"- [{name}](#{anchor(name)}): {text}" for name, text in FILES.items())]


def section(model: type[BaseModel]) -> str:
    """What a model is for, and the table of its keys."""
    about = plain((model.__doc__ or "").strip())
    return f"{about}\n\n{table(model)}" if about else table(model)


def table(model: type[BaseModel]) -> str:
    """One row per key: name, type, default, meaning."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", type_text(field), default_text(field), meaning(name, field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows)


def nested() -> list[type[BaseModel]]:
    """All models below the roots, each once, sorted by name."""
    found: list[type[BaseModel]] = []
    queue = list(ROOTS.values())
    while queue:
        for field in queue.pop(0).model_fields.values():
            new = [m for m in models(field.annotation) if m not in found and m not in ROOTS.values()]
            found += dict.fromkeys(new)
            queue += dict.fromkeys(new)
    return sorted(found, key=lambda model: model.__name__)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type, however they are nested."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        yield from models(annotation.model_fields["root"].annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def type_text(field: FieldInfo) -> str:
    """Type of a field in words, with links to the tables of groups."""
    if any(constraint in field.metadata for constraint in get_args(Bytes)[1:]):
        return "size in bytes"
    return words(field.annotation)


def words(annotation: Any) -> str:
    """A type in words."""
    args, origin = get_args(annotation), get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return words(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return link(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words(part) for part in args))
    if hasattr(annotation, "__metadata__"):
        return words(args[0])
    if origin is dict:
        return f"mapping of {words(args[0])} to {words(args[1])}"
    if origin in (list, tuple):
        inner = [part for part in args if part is not ...]
        count = f"{len(inner)} × " if origin is tuple and ... not in args else ""
        return f"list of {count}{words(inner[0])}"
    names = {NoneType: "null", str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return names.get(annotation, "any value")


def link(model: type[BaseModel]) -> str:
    """A link to a model's table, by its kind where it has one."""
    target = next((anchor(name) for name, root in ROOTS.items() if root is model), anchor(model.__name__))
    kinds = get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
    return f"[`{kinds[0]}`](#{target})" if len(kinds) == 1 else f"[{model.__name__}](#{target})"


def default_text(field: FieldInfo) -> str:
    """Default of a field as YAML; groups by their kind or as the defaults of their table."""
    if field.default_factory_takes_validated_data:
        return "follows from other keys"
    value = field.get_default(call_default_factory=True)
    if field.is_required() or value is PydanticUndefined:
        return "**required**"
    return f"`{value_text(value)}`"


def value_text(value: Any) -> str:
    """A value as it would be written in YAML."""
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        return f"{{kind: {kind}}}" if isinstance(kind, str) else "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {value_text(v)}" for k, v in value.items()) + "}"
    return str(value) if value != "" else '""'


def meaning(name: str, field: FieldInfo) -> str:
    """Description and bounds of a field."""
    text = plain(field.description or ("Selects this table." if name == "kind" else ""))
    limits = [bound for constraint in field.metadata if (bound := limit(constraint))]
    return f"{text} ({', '.join(limits)})" if limits else text


def limit(constraint: Any) -> str:
    """A bound in symbols; empty for constraints that are none."""
    for kind, form in BOUNDS.items():
        if isinstance(constraint, kind):
            return form.format(getattr(constraint, kind.__name__.lower()))
    if isinstance(constraint, MinLen):
        return f"at least {constraint.min_length} entries" if constraint.min_length > 1 else "not empty"
    return f"at most {constraint.max_length} entries" if isinstance(constraint, MaxLen) else ""


def plain(text: str) -> str:
    """A docstring or description as Markdown: one paragraph per block, literals in single backticks."""
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    return "\n\n".join(escape(block.replace("``", "`")) for block in blocks)


def escape(text: str) -> str:
    """The text with Markdown's own signs escaped outside literals."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return heading.lower().replace(" ", "-")
