"""What `sward config` prints: all keys of a file, with meaning and default, as YAML in comments.

A group of settings that has a default is printed with its own keys. Of a group that has none, or that may take another
kind, the names that can be written there are given.
"""

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from pipeline.cache.config import CacheConfig
from pipeline.config import kind_of, models_in
from pipeline.console import BETWEEN_WORDS
from pipeline.experiments.compare_config import CompareConfig
from pipeline.experiments.quality import QualityConfig
from pipeline.training.config import TrainConfig
from pipeline.yaml_files import dump_yaml

ROOTS: dict[str, type[BaseModel]] = {
    "extract": CacheConfig,
    "plan": CacheConfig,
    "train": TrainConfig,
    "fit-head": TrainConfig,
    "compare": CompareConfig,
    "quality": QualityConfig,
}  # verb -> model of its file
LISTED = {"teacher": "teachers", "student": "students", "method": "methods", "codec": "codecs"}  # key -> `sward list …`


def commented(verb: str, width: int = 100) -> str:
    """All keys of a verb's file as YAML: required ones to fill in, the others commented out with their defaults.

    Args:
        verb: one of ROOTS.
        width: columns after which lines go on below, between words.
    """
    model = ROOTS[verb]
    about = (model.__doc__ or "").strip().partition("\n")[0]
    lines = [*_comment(about, width), "# Keys in comments have these defaults.", ""]
    for name, field in model.model_fields.items():
        lines += _comment(field.description or "", width)
        lines += _comment(_choices(name, field), width)
        if field.is_required():
            lines.append(f"{name}:   # required")
        elif field.default_factory_takes_validated_data:
            lines.append(f"# {name}:   # follows from other keys")
        else:
            value = field.get_default(call_default_factory=True)
            lines += [f"# {line}" for line in _entry(name, value, plain(value), width - 2)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _comment(text: str, width: int) -> list[str]:
    return [f"# {line}" for line in wrap(text.replace("``", "`"), max(width - 2, 1), **BETWEEN_WORDS)]


def _entry(name: str, value: Any, shown: Any, width: int) -> Iterator[str]:
    """A key with its default; a group's own keys below it, each after its description.

    Args:
        value: the default, a model for a group.
        shown: what stands for it in YAML.
    """
    if not isinstance(value, BaseModel) or not isinstance(shown, dict) or not shown:
        yield from dump_yaml({name: shown}, width=width).splitlines()
        return
    yield f"{name}:"
    for key, field in type(value).model_fields.items():  # what is dumped lacks keys that change nothing
        inner = getattr(value, key)
        lines = [line for text in (field.description or "", _choices(key, field)) for line in _comment(text, width - 2)]
        lines += _entry(key, inner, shown.get(key, plain(inner)), width - 2)
        yield from (f"  {line}" for line in lines)


def _choices(name: str, field: FieldInfo) -> str:
    """What can be written for a key that takes a group: a file, one of several kinds, or the keys of the only one."""
    if field.default_factory_takes_validated_data:
        return ""
    models = [m for m in models_in([field.annotation]) if not issubclass(m, RootModel)]
    if verb := next((verb for verb, root in ROOTS.items() if root in models), ""):
        return f"Its keys: sward config {verb}."
    kinds = list(dict.fromkeys(str(kind_of(m)) for m in models if kind_of(m)))
    if len(kinds) > 1:
        what = LISTED.get(name.removesuffix("s"))
        return f"Written {{kind: {kinds[0]}}}; kinds: {', '.join(kinds)}{f' (sward list {what})' if what else ''}."
    expanded = isinstance(field.get_default(call_default_factory=True), BaseModel)
    if models and not expanded:
        return f"Its keys: {', '.join(models[0].model_fields)}."
    return ""


def plain(value: Any) -> Any:
    """A default as YAML can hold it."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
