"""Verbs of the `sward` command that train one run: their arguments and their output."""

import argparse
from typing import Any

from pipeline import console
from pipeline.cli.store_verbs import Verb


def add_train(configured: Verb) -> None:
    """Adds `sward fit-head` and `sward train`; ``configured`` creates a verb that takes a configuration file."""
    configured(
        "fit-head",
        fit_head,
        "Train the teacher's segmentation head on cached features (teacher row in comparisons; logits for KD methods).",
    )
    trained = configured("train", train, "Stage 2: train one student from a store, or resume its training.")
    trained.add_argument(
        "--profile",
        type=positive,
        nargs="?",
        const=20,
        metavar="STEPS",
        help="Time the parts of this many steps (default: 20): prints a table, writes profile.json and a trace to the "
        "run's folder.",
    )
    trained.add_argument(
        "--extract",
        action="store_true",
        help="Extract the store meanwhile, in a process of its own, and train on its shards as they are written; needs "
        "order: shards.",
    )


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def fit_head(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.training.config import TrainConfig

    run_training(load_config(TrainConfig, args.config, args.set).head_run())


def train(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.training.config import TrainConfig

    config = load_config(TrainConfig, args.config, args.set)
    if not args.extract:
        run_training(config, args.profile)
        return
    from pipeline.cache.extraction.beside import extraction_beside
    from pipeline.training.inputs.order_config import require_beside

    require_beside(config)
    with extraction_beside(config.caches[0], console.spoken("extracted", "records"), console.note) as extraction:
        run_training(config, args.profile, extraction)


def run_training(config: Any, profile_steps: int | None = None, extraction: Any = None) -> None:
    from pipeline.training.distributed import processes
    from pipeline.training.loop import train as run
    from pipeline.training.run_folder import RunFolder

    if RunFolder(config.folder).finished:
        console.say("already finished; nothing to train" + (" or to profile" if profile_steps else ""))
    try:
        with console.progress(config.name, "steps") as show:
            run(config, lambda step, steps, logged: show(step, steps, logged.get("loss")), profile_steps, extraction)
        if processes.rank() == 0:
            console.tell("\n".join(console.run_lines(config.folder)))
    finally:
        if profile_steps and (config.folder / "profile.json").is_file():
            console.tell("\n".join(console.profile_lines(config.folder)))
