"""Verbs of the `sward` command that work on stores: their arguments and their output."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import console
from pipeline.paths import expand, read_path, with_urls, write_path

Run = Callable[[argparse.Namespace], int | None]
Verb = Callable[[str, Run, str], argparse.ArgumentParser]


def a_path(text: str) -> Path:
    """Argument type: a path; ``~`` and ``$VARIABLE`` are replaced, which a shell does not do after ``--out=``."""
    try:
        return Path(expand(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_plan(configured: Verb) -> None:
    """Adds `sward plan`; ``configured`` creates a verb that takes a configuration file."""
    planned = configured(
        "plan", plan, "Estimate time and size of an extraction on this machine, and whether caching pays off."
    )
    planned.add_argument(
        "--train",
        type=a_path,
        metavar="CONFIG",
        help="Train config of the student to plan for (default: a fast student that reads all levels).",
    )
    planned.add_argument("--budget", metavar="SIZE", help="Recommend codec and number of views for a size, e.g. 200GB.")
    planned.add_argument(
        "--html",
        type=a_path,
        metavar="OUT",
        help="Write a page that draws what a training step waits at other disks, batch sizes and threads.",
    )
    planned.add_argument(
        "--capacity",
        action="store_true",
        help="Also estimate nodes of 8 A100 and 8 H100 GPUs (docs/capacity.md).",
    )


def add_store_verbs(verb: Verb) -> None:
    """Adds the verbs that read stores, then those that change or copy them."""
    shown = verb("inspect", inspect, "Show what a store contains.")
    shown.add_argument("store", help="Folder or URL of the store.")
    shown.add_argument("--json", action="store_true", help="Print all facts as JSON.")
    shown.add_argument(
        "--html",
        type=a_path,
        metavar="OUT",
        help="Write a page with histograms and pictures of features to this file.",
    )
    checked = verb("verify", verify, "Check files, sources and, by running the teacher again, random records.")
    checked.add_argument("store", help="Folder or URL of the store.")
    checked.add_argument("--records", type=int, default=8, help="Random records to extract again (default: 8).")
    checked.add_argument("--seed", type=int, default=0, help="Seed that selects the random records (default: 0).")
    checked.add_argument(
        "--config",
        type=a_path,
        help="Cache config with current paths of data set and weights (default: the paths recorded in the store).",
    )
    checked.add_argument(
        "--files-only", action="store_true", help="Check files and statistics; needs neither data set nor teacher."
    )
    add_store_tools(verb)


def add_store_tools(verb: Verb) -> None:
    """Adds the verbs that change or copy stores."""
    repacked = verb(
        "repack",
        repack,
        "Write a store again with another codec, shard size or compression; needs neither teacher nor data set.",
    )
    repacked.add_argument("store", help="Folder or URL of the store to read.")
    repacked.add_argument("out", help="Folder of the new store.")
    repacked.add_argument(
        "--codec",
        metavar="K",
        help="Codec of the new store, e.g. int8 (default: unchanged, which keeps the content id).",
    )
    repacked.add_argument("--shard-records", type=int, metavar="N", help="Records per shard (default: unchanged).")
    repacked.add_argument(
        "--compression", metavar="none|zstd|archive", help="Lossless compression (default: unchanged)."
    )
    copied = verb("copy", copy, "Copy a store to another folder or URL, checking every file on the way.")
    copied.add_argument("store", help="Folder or URL of the store to read.")
    copied.add_argument("dest", help="New folder or URL; run the same command again to continue an interrupted copy.")
    copied.add_argument(
        "--follow-links", action="store_true", help="Also copy files that symbolic links place outside the store."
    )
    pruned = verb("prune", prune, "List files that the store does not use; delete them with --yes.")
    pruned.add_argument("store", help="Folder of the store.")
    pruned.add_argument("--yes", action="store_true", help="Delete the listed files.")


def plan(args: argparse.Namespace) -> int:
    from pipeline.cache.config import CacheConfig
    from pipeline.config import load_config, parse_size
    from pipeline.cost_estimates import estimate, estimate_text
    from pipeline.training.config import TrainConfig

    config = load_config(CacheConfig, args.config, args.set)
    size = parse_size(args.budget) if args.budget else None
    made = estimate.estimate_costs(config, load_config(TrainConfig, args.train) if args.train else None, size)
    console.tell("\n".join(estimate_text.describe(made)))
    if args.html:
        from pipeline.report.plan_page import write_plan

        console.say(write_plan(made, args.config.stem, args.html))
    if args.capacity:
        from pipeline.maintenance.capacity_page import elsewhere

        console.tell("\n".join(["", *elsewhere(config, made)]))
    return 0 if made.fits else 1


def inspect(args: argparse.Namespace) -> None:
    import json

    from pipeline.cache.tools.inspect import describe
    from pipeline.cache.tools.inspect import inspect as look

    if args.html:
        from pipeline.report.store_page import write_card

        console.say(write_card(read_path(args.store), args.html))
        return
    facts = look(read_path(args.store))
    if args.json:
        console.say(json.dumps(facts, indent=1))
    else:
        console.tell("\n".join(describe(facts)))


def verify(args: argparse.Namespace) -> int:
    from pipeline.cache.config import CacheConfig
    from pipeline.cache.tools.verify import verify as run
    from pipeline.config import load_config

    config = load_config(CacheConfig, args.config) if args.config else None
    found = run(read_path(args.store), args.records, args.seed, config, sources=not args.files_only)
    for level, (cosine, error) in found.levels.items():
        console.tell(
            f"{level:4} worst cosine {cosine:.7f}, worst relative error {error:.2e} over {found.records} records"
        )
    lines = [*(f"note: {n}" for n in found.notes), *(f"FAILED: {p}" for p in found.problems)]
    console.tell(with_urls("\n".join(lines or ["all good"])))
    return 0 if found.ok else 1


def repack(args: argparse.Namespace) -> None:
    from pipeline.cache.tools.repack import repack as run

    with console.progress("repacking", "records") as show:
        made = run(read_path(args.store), write_path(args.out), args.codec, args.shard_records, args.compression, show)
    console.tell(f"{made.path}: {made.records} records, {made.written} written now; content id {made.content_id}")
    if made.left_out:
        console.tell(
            f"note: not in the new store: {', '.join(made.left_out)} (teacher's head); add by sward extract --append"
        )


def copy(args: argparse.Namespace) -> None:
    from pipeline.cache.tools.copy import copy as run

    with console.progress("copying", "MB") as show:
        made = run(
            read_path(args.store),
            write_path(args.dest),
            lambda done, total: show(done // 10**6, total // 10**6),
            args.follow_links,
        )
    sizes = f"{made.bytes / 1e9:.3f} GB, {made.copied / 1e9:.3f} GB of them copied now"
    console.tell(f"{with_urls(made.path)}: {made.files} files, {sizes}; all checked")


def prune(args: argparse.Namespace) -> None:
    from pipeline.cache.tools.prune import prune as run

    found = run(read_path(args.store), args.yes)
    for path, size in found.items():
        console.say(f"{size:12} {path}")
    what = "removed" if args.yes else "not used by the store; remove them with --yes"
    console.tell(
        f"{len(found)} files, {sum(found.values())} bytes: {what}" if found else "nothing is left over", file=sys.stderr
    )
