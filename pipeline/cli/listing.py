"""What `sward list` prints: names of what can be configured, and what they are."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pipeline.paths import CONFIGS

if TYPE_CHECKING:
    from pydantic import BaseModel

KINDS = ("methods", "students", "teachers", "codecs", "configs")
BY_FILE = ("methods", "teachers")  # one each file, whose docstring says what it is; its configuration's, what it sets


def listed(what: str) -> Iterator[tuple[str, str]]:
    """(name, first sentence about it) of everything of a kind; for configurations (path, first comment)."""
    if what == "configs":
        for path in sorted(p for root in {CONFIGS, Path("configs")} for p in root.rglob("*.yaml")):
            root = next(r for r in (Path("configs"), CONFIGS) if path.is_relative_to(r))
            yield f"configs/{path.relative_to(root).as_posix()}", first_comment(path)
        return
    for model in _models(what):
        described = sys.modules[model.__module__] if what in BY_FILE else model
        about = (described.__doc__ or "").strip().split("\n\n")[0].replace("``", "`")
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
