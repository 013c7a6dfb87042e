"""What `sward list` and `sward config` print: names of what can be configured, and all keys of a file with defaults."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, get_args

from pipeline.paths import CONFIGS

if TYPE_CHECKING:
    from pydantic import BaseModel

KINDS = ("methods", "students", "teachers", "codecs", "configs")
VERBS = ("plan", "extract", "fit-head", "train", "compare", "quality")


def listed(what: str) -> Iterator[tuple[str, str]]:
    """(name, first sentence about it) of everything of a kind; for configurations (path, first comment)."""
    if what == "configs":
        for path in sorted(p for root in {CONFIGS, Path("configs")} for p in root.rglob("*.yaml")):
            root = next(r for r in (Path("configs"), CONFIGS) if path.is_relative_to(r))
            yield f"configs/{path.relative_to(root).as_posix()}", first_comment(path)
        return
    for model in _models(what):
        about = (model.__doc__ or "").strip().split("\n\n")[0]
        yield str(model.model_fields["kind"].default), " ".join(about.split())


def _models(what: str) -> tuple[type["BaseModel"], ...]:
    """The configurations of a union, in its order."""
    from pipeline.cache.format.codecs import CodecConfig
    from sward.methods import MethodConfig
    from sward.students import StudentConfig
    from sward.teachers import TeacherConfig

    unions = {"methods": MethodConfig, "students": StudentConfig, "teachers": TeacherConfig, "codecs": CodecConfig}
    return get_args(get_args(unions[what])[0])


def first_comment(path: Path) -> str:
    """The comment in a file's first line, empty without one."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def commented(verb: str) -> str:
    """All keys of a verb's file as YAML: required ones to fill in, the others commented out with their defaults."""
    from pipeline.yaml_files import dump_yaml

    model = _root(verb)
    lines = [f"# {model.__doc__ or ''}".strip().partition("\n")[0], "# Keys in comments have these defaults.", ""]
    for name, field in model.model_fields.items():
        lines += [f"# {line}" for line in wrap(field.description or "", 98)]
        if field.is_required():
            lines.append(f"{name}:   # required")
        elif field.default_factory_takes_validated_data:
            lines.append(f"# {name}:   # follows from other keys")
        else:
            value = plain(field.get_default(call_default_factory=True))
            lines += [f"# {line}" for line in dump_yaml({name: value}, width=100).splitlines()]
        lines.append("")
    return "\n".join(lines).rstrip()


def _root(verb: str) -> type["BaseModel"]:
    """The model of the file that a verb takes."""
    from pipeline.cache.config import CacheConfig
    from pipeline.experiments.compare_config import CompareConfig
    from pipeline.experiments.quality import QualityConfig
    from pipeline.training.config import TrainConfig

    files: dict[str, type[BaseModel]] = {"plan": CacheConfig, "extract": CacheConfig}
    files |= {"compare": CompareConfig, "quality": QualityConfig}
    return files.get(verb, TrainConfig)


def plain(value: Any) -> Any:
    """A default as YAML can hold it."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
