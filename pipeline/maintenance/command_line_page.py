"""Writes the reference of the command line from the argument parser: every verb and its arguments."""

import argparse

from pipeline.cli.main import parser
from pipeline.maintenance.configuration_page import escape

INTRO = """
`sward VERB --help` prints the same. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 stopped (the same
command continues). `python -m pipeline.cli` is the same command.

Verbs that take a configuration file accept `--set A.B=VALUE` any number of times; the keys are in
[Configuration keys](configuration.md). A value is YAML: `--set optimizer.lr=1e-3`, `--set size=[256,256]`.

A store may be a folder or a URL (`s3://`, `gs://`, `az://`) for `extract`, `train`, `inspect`, `verify` and `copy`; see
[Object storage](../how-to/object-storage.md).
"""


def page() -> str:
    """The whole page as Markdown."""
    found = verbs()
    parts = ["# Command line", INTRO.strip(), overview(found)]
    for name, verb in found.items():
        parts += [f"## sward {name}", escape(verb.description or ""), usage(verb), arguments(verb)]
    return "\n\n".join(parts) + "\n"


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Name of every verb -> its parser, in the order of `sward --help`."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def overview(found: dict[str, argparse.ArgumentParser]) -> str:
    """Table of all verbs."""
    rows = [f"| [`sward {name}`](#sward-{name}) | {escape(verb.description or '')} |" for name, verb in found.items()]
    return "\n".join(["| verb | does |", "|---|---|", *rows])


def usage(verb: argparse.ArgumentParser) -> str:
    """The usage line, independent of the terminal's width."""
    words = [verb.prog]
    for action in verb._actions:
        if not isinstance(action, argparse._HelpAction):
            words.append(written(action))
    return "```text\n" + " ".join(words) + "\n```"


def written(action: argparse.Action) -> str:
    """An argument as it stands in the usage line."""
    values = value(action)
    text = f"{action.option_strings[0]} {values}".strip() if action.option_strings else values
    return text if action.required else f"[{text}]"


def value(action: argparse.Action) -> str:
    """What follows an option, or stands for a positional argument."""
    if action.nargs == 0:
        return ""
    name = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest.upper())
    name = name if action.option_strings or action.choices else name.upper()
    return {"+": f"{name} [{name} …]", "*": f"[{name} …]", "?": f"[{name}]"}.get(str(action.nargs), name)


def arguments(verb: argparse.ArgumentParser) -> str:
    """Table of a verb's arguments."""
    rows = []
    for action in verb._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = f"{action.option_strings[0]} {value(action)}".strip() if action.option_strings else value(action)
        rows.append(f"| `{name}` | {escape((action.help or '') % vars(action))} |".replace("\n", " "))
    return "\n".join(["| argument | meaning |", "|---|---|", *(piped(row) for row in rows)])


def piped(row: str) -> str:
    """A row of two cells in which the bars inside the cells are escaped."""
    name, meaning = row.removeprefix("| ").removesuffix(" |").split(" | ", 1)
    return f"| {name.replace('|', chr(92) + '|')} | {meaning.replace('|', chr(92) + '|')} |"
