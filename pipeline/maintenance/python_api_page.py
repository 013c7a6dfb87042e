"""Writes the page of the Python API: signature and docstring of every name that is meant for other people's code.

Signatures are taken from the source, as they are written there, so that every version of Python gives the same page.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module

from pipeline.maintenance.configuration_page import escape, plain

INTRO = """
The names below are meant for other people's code. `import sward` needs torch and no store, configuration file or
server; submodules are imported when a name is first used. Shapes are in brackets: B batch, C channels, H and W height
and width, K classes. Longer examples are the notebooks in [Getting started](../getting-started/index.md).
"""
SECTIONS = {
    "Losses for your own loop": (
        "`from sward import MWAD, PDR, MWADConfig, PDRConfig`; the settings are in "
        "[Configuration keys](configuration.md#mwadconfig).",
        ["sward.MWAD", "sward.PDR"],
    ),
    "Trained students": ("", ["sward.students.load", "sward.students.Segmenter"]),
    "Both stages": (
        "What `sward extract` and `sward train` call. Configurations are models of "
        "[their keys](configuration.md): `CacheConfig` in `pipeline.cache.config`, `TrainConfig` in "
        "`pipeline.training.config`.",
        [
            "pipeline.config.load_config",
            "pipeline.cache.extraction.extract.extract",
            "pipeline.cache.store.Store",
            "pipeline.training.loop.train",
        ],
    ),
    "What methods and students agree on": (
        "",
        [f"sward.contracts.{name}" for name in ("Batch", "StudentOutput", "Student", "BaseMethodConfig", "Method")],
    ),
    "Metrics": (
        "Their definitions: [Metrics](metrics.md).",
        [f"sward.metrics.{name}" for name in ("SegmentationMetrics", "confusion_matrix", "boundary_f", "hd95")],
    ),
    "Grad-CAM": ("", ["sward.gradcam.grad_cam", "sward.gradcam.class_score"]),
}  # heading -> what to know, names
WIDTH = 100  # of a signature in one line
PART = re.compile(r"^(Args|Returns|Raises|Raises on opening|Attributes|Example):$")
TITLES = {"Args": "Parameters"}
ITEM = re.compile(r"^(?P<names>\*{0,2}\w+(, \w+)*): (?P<text>.+)$")


def page() -> str:
    """The whole page as Markdown."""
    parts = ["# Python API", INTRO.strip()]
    for heading, (about, names) in SECTIONS.items():
        parts += [f"## {heading}", *([about] if about else [])]
        for name in names:
            parts += [f"### `{name}`", *described(name)]
    return "\n\n".join(parts) + "\n"


def described(name: str) -> Iterator[str]:
    """Signature and docstring of a function or a class, then those of the class's public methods."""
    module, _, own = name.rpartition(".")
    found = getattr(import_module(module), own)
    node = ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]
    yield signature(own, node)
    yield from text(node)
    for method in methods(node):
        label = f"{own}.{method.name}"
        if any(isinstance(d, ast.Name) and "property" in d.id for d in method.decorator_list):
            yield f"**`{label}`**, a property" + (f": `{ast.unparse(method.returns)}`" if method.returns else "")
        else:
            yield signature(label, method)
        yield from text(method)


def methods(node: ast.stmt) -> list[ast.FunctionDef]:
    """Public methods and properties of a class, as far as they have a docstring; none of a function."""
    inside = [n for n in node.body if isinstance(n, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
    return [n for n in inside if not n.name.startswith("_") and ast.get_docstring(n)]


def signature(name: str, node: ast.stmt) -> str:
    """A call of a function or a class, as a block; a parameter a line where it is long."""
    shown, returned = parameters(node), getattr(node, "returns", None)
    end = f") -> {ast.unparse(returned)}" if returned and ast.unparse(returned) != "None" else ")"
    line = f"{name}({', '.join(shown)}{end}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name}(", *(f"    {each}," for each in shown), end])
    return f"```text\n{line}\n```"


def parameters(node: ast.stmt) -> list[str]:
    """The parameters of a function; of a class, those of its constructor, or its fields."""
    if isinstance(node, ast.ClassDef):
        made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return parameters(made[0]) if made else fields(node)
    assert isinstance(node, ast.FunctionDef)
    spec = node.args
    plain = [*spec.posonlyargs, *spec.args]
    defaults = [*[None] * (len(plain) - len(spec.defaults)), *spec.defaults]
    shown = [parameter(a, d) for a, d in zip(plain, defaults, strict=True) if a.arg not in ("self", "cls")]
    named = [parameter(a, d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    return shown + (["*", *named] if named else [])


def fields(node: ast.ClassDef) -> list[str]:
    """The fields of a data class; of other classes none."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return []
    stated = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    return [f"{ast.unparse(n.target)}: {ast.unparse(n.annotation)}" + default(n.value) for n in stated]


def parameter(arg: ast.arg, value: ast.expr | None) -> str:
    """A parameter with its type and default."""
    return arg.arg + (f": {ast.unparse(arg.annotation)}" if arg.annotation else "") + default(value)


def default(value: ast.expr | None) -> str:
    return f" = {ast.unparse(value)}" if value is not None else ""


def text(node: ast.stmt) -> Iterator[str]:
    """A docstring in Google's form as Markdown: paragraphs, and lists under the names of its parts."""
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    for block in (ast.get_docstring(node) or "").split("\n\n"):
        first, _, rest = block.partition("\n")
        if not (part := PART.match(first)):
            yield markdown(block)
        elif part[1] == "Example":
            yield f"**Example**\n\n```text\n{textwrap.dedent(rest)}\n```"
        else:
            yield f"**{TITLES.get(part[1], part[1])}**\n\n{entries(textwrap.dedent(rest))}"


def entries(text: str) -> str:
    """``name: meaning`` lines as a list; a text without names as it is."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and line.startswith(" "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    if not all(ITEM.match(line) for line in lines):
        return markdown(text)
    return "\n".join(f"- `{found['names']}`: {markdown(found['text'])}" for found in map(ITEM.match, lines) if found)


def markdown(block: str) -> str:
    """A paragraph of a docstring; a list stays one."""
    lines = block.replace("``", "`").splitlines()
    if any(line.startswith("- ") for line in lines):
        return "\n".join(map(escape, lines))
    return plain(block)
