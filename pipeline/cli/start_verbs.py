"""Verbs of the `sward` command for beginning: `init`."""

import argparse
import sys

from pipeline import console
from pipeline.cli.store_verbs import Verb, a_path


def add_start_verbs(verb: Verb) -> None:
    """Adds the verbs that show what there is and write first files."""
    started = verb("init", init, "Look at a folder of images and masks; write a card and configurations beside them.")
    started.add_argument("folder", type=a_path, help="Folder of the images and masks; existing files are kept.")


def init(args: argparse.Namespace) -> int:
    from pipeline.starter.project import write_project

    made = write_project(args.folder)
    console.say("\n".join(made.lines))
    console.say(f"written: {', '.join(str(path) for path in made.files)}")
    if made.problems:
        console.say(f"the set does not load yet:\n{made.problems}", file=sys.stderr)
        return 1
    console.say(f"next: sward extract {made.files[1]} && sward train {made.files[2]}")
    return 0
