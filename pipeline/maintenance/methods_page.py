"""Writes the page of methods from the docstrings of sward/methods: idea, terms, sources, differences, what is read."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pipeline.files import read_json
from pipeline.maintenance.configuration_page import escape, plain
from pipeline.results.results_table import reads_text
from sward.contracts import BaseMethodConfig
from sward.methods import MethodConfig

INTRO = """
`method: {kind: …}` in a train config selects one. Each is one file (or folder) in `sward/methods/`; what follows is
that file's own documentation. All methods share student, store, order of records and task loss, so a comparison of them
differs in the method alone. *Trained* parameters are trained with the student and dropped after training. Methods that
read `logits` or `penultimate` need a fitted head: see [Methods and heads](../how-to/method.md).

In the formulas B is the batch, C channels, H and W the map's height and width, K the number of classes; indices t and s
are teacher and student; `f` are features, `z` logits; `KL(p || q)` is the sum of p (log p − log q).
"""
COSTS_INTRO = """
## What each costs

One row of each kind in `results/methods-all-clinicdb-cpu` (UNeXt at 128 px, batches of 4, SAM 2 Hiera-T, one CPU
thread): median time of a step, the rows taking turns in one process; all tensors alive at once; parameters that are
trained with the student and dropped; what is read of a record. At other sizes the ratios differ: a comparison measures
its own rows.
"""
COSTS = Path(__file__).resolve().parents[2] / "results/methods-all-clinicdb-cpu/comparison.json"
HEADINGS = ("Terms", "Paper and code", "Differences", "Reads", "Random draws", "Parameters and buffers", "Raises")
HEADING = re.compile(rf"^(?P<name>{'|'.join(HEADINGS)})(?P<more>[^:\n]*):(?P<rest>.*)$")
TERM = re.compile(r"^(?P<name>``[^`]+``|[a-z][a-z_0-9]*(, [a-z][a-z_0-9]*)*( \([^)]*\))?): (?P<formula>\S.*)$")


def page() -> str:
    """The whole page as Markdown."""
    configs = get_args(get_args(MethodConfig)[0])
    rows = [f"| [`{kind(c)}`](#{kind(c)}) | {headline(c)} |" for c in configs]
    parts = ["# Methods", INTRO.strip(), "\n".join(["| kind | idea |", "|---|---|", *rows])]
    parts += [COSTS_INTRO.strip(), costs_table(read_json(COSTS), [kind(config) for config in configs])]
    for config in configs:
        parts += [f"## {kind(config)}", *method(config)]
    return "\n\n".join(parts) + "\n"


def costs_table(comparison: dict[str, Any], kinds: list[str]) -> str:
    """Table of step time, memory, trained parameters and bytes read, of the first row of every kind that has one."""
    rows = {row["method"]: row for row in reversed(comparison["rows"]) if row["label"] != "teacher" and row.get("cost")}
    lines = ["| kind | step, × plain | MB | trained | reads | KB a record |", "|---|---:|---:|---:|---|---:|"]
    for name in (name for name in kinds if name in rows):
        row, cost = rows[name], rows[name]["cost"]
        numbers = f"{cost['relative'] or 1:.2f} | {cost['peak_bytes'] / 1e6:.0f} | {row['adapter_parameters']:,}"
        lines.append(f"| `{name}` | {numbers} | {reads_text(cost) or 'nothing'} | {cost['read_bytes'] / 1e3:.0f} |")
    return "\n".join(lines)


def kind(config: type[BaseMethodConfig]) -> str:
    """Name of a method in configurations."""
    return str(config.model_fields["kind"].default)


def headline(config: type[BaseMethodConfig]) -> str:
    """First sentence of the method's file, for a table."""
    return first_block(module_text(config)).replace("|", "\\|")


def first_block(text: str) -> str:
    """First paragraph of a docstring on one line."""
    return plain(text.split("\n\n")[0])


def module_text(config: type[BaseMethodConfig]) -> str:
    """Docstring of the file that defines a method's configuration."""
    return inspect.cleandoc(sys.modules[config.__module__].__doc__ or "")


def method(config: type[BaseMethodConfig]) -> Iterator[str]:
    """Paragraphs of one method: its file's docstring, then its class's, then where to find code and settings."""
    module = sys.modules[config.__module__]
    yield plain(module_text(config))
    built = getattr(module, str(config.build.__annotations__["return"]).strip("\"'"))  # type: ignore[attr-defined]
    yield from formatted(inspect.getdoc(built) or "")
    file = Path(*config.__module__.split(".")).with_suffix(".py")
    settings = f"[`{config.__name__}`](../reference/configuration.md#{config.__name__.lower()})"
    yield f"Code: [`{file}`](../../{file}). Settings: {settings}."


def formatted(text: str) -> Iterator[str]:
    """A class docstring as Markdown paragraphs, its headings in bold, its terms as a list."""
    for name, body in blocks(text):
        if not name:
            yield plain(body)
        elif name.startswith("Terms") and (listed := terms(body)):
            yield f"**{escape(name)}**\n\n{listed}"
        else:
            yield f"**{name}:** {plain(body)}"


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(heading or nothing, text below it) in order; a heading stands alone on its line or before its text."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if match := HEADING.match(line):
            if body := inspect.cleandoc("\n".join(lines)).strip():
                yield name, body
            name, lines = match["name"] + match["more"].replace("``", "`"), [match["rest"].strip()]
        elif lines == [""] and line.startswith("    "):
            lines = [line]
        else:
            lines.append(line)
    if body := inspect.cleandoc("\n".join(lines)).strip():
        yield name, body


def terms(body: str) -> str:
    """Terms as a list, if every one begins a line with its name; else nothing."""
    items: list[str] = []
    for line in body.splitlines():
        if match := TERM.match(line):
            items.append(f"- `{match['name'].strip('`')}`: {match['formula']}")
        elif not items:
            return ""
        else:
            items[-1] += f" {line.strip()}"
    return "\n".join(
        f"{head}`: {escape(tail.replace('``', '`'))}" for head, _, tail in (i.partition("`: ") for i in items)
    )
