"""Verbs of the `sward` command for beginning: a project for one's own images, names that there are, keys of files."""

import argparse
import sys
from shlex import quote
from textwrap import wrap

from pipeline import console
from pipeline.cli.listing import KINDS, listed
from pipeline.cli.store_verbs import Verb, a_path

VERBS = ("plan", "extract", "fit-head", "train", "compare", "quality")  # that read a file


def add_start_verbs(verb: Verb) -> None:
    """Adds the verbs that show what there is and write first files."""
    started = verb("init", init, "Look at a folder of images and masks; write a card and configurations beside them.")
    started.add_argument("folder", type=a_path, help="Folder of the images and masks; existing files are kept.")
    lists = verb("list", show_list, "List what can be configured: names and what they are.")
    lists.add_argument("what", choices=KINDS, help="What to list.")
    keys = verb("config", show_config, "Print all keys of a verb's file, with defaults, as commented YAML.")
    keys.add_argument("of", choices=VERBS, metavar="verb", help=f"The verb that reads the file: {', '.join(VERBS)}.")
    completes = verb("completion", completion, "Print the script that completes verbs, options and files in a shell.")
    completes.add_argument(
        "shell", choices=["bash", "zsh", "fish"], help='Shell; in bash: eval "$(sward completion bash)".'
    )


def init(args: argparse.Namespace) -> int:
    from pipeline.starter.project import write_project

    made = write_project(args.folder)
    console.tell("\n".join(made.lines))
    console.tell(f"written: {', '.join(str(path) for path in made.files)}")
    if made.problems:
        console.tell(f"the set does not load yet:\n{made.problems}", file=sys.stderr)
        return 1
    cache, train = (quote(str(path)) for path in made.files[1:3])
    console.say(f"next:\n  sward extract {cache}\n  sward train {train}")
    return 0


def show_list(args: argparse.Namespace) -> None:
    rows = list(listed(args.what))
    width, name = console.width(), max(len(name) for name, _ in rows) + 2
    below = name > width // 2  # long paths: what they are goes below
    for text, about in rows:
        body = wrap(about, max(width - (4 if below else name), 1), **console.BETWEEN_WORDS)
        if below:
            console.say("\n".join([text, *("    " + line for line in body)]))
        else:
            console.say("\n".join([f"{text:{name}}{''.join(body[:1])}", *(" " * name + line for line in body[1:])]))


def show_config(args: argparse.Namespace) -> None:
    from pipeline.cli.config_text import commented

    console.say(commented(args.of, min(100, console.columns() or 100)))


def completion(args: argparse.Namespace) -> None:
    from argcomplete import shellcode

    console.say(shellcode(["sward"], shell=args.shell))
