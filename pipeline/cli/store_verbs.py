"""The verbs of `sward` that work on stores: their arguments, and what they print."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import console
from pipeline.paths import read_path, with_urls, write_path

Run = Callable[[argparse.Namespace], int | None]
Verb = Callable[[str, Run, str], argparse.ArgumentParser]


def add_plan(configured: Verb) -> None:
    """``configured`` makes a verb that takes a configuration file."""
    planned = configured("plan", plan, "what an extraction will cost, measured here, and whether caching pays")
    planned.add_argument("--train", type=Path, metavar="CONFIG", help="train config: what its student needs")
    planned.add_argument("--budget", metavar="SIZE", help="e.g. 200GB: which codec and how many views")
    planned.add_argument("--capacity", action="store_true", help="also on nodes of A100 and H100 (docs/capacity.md)")


def add_store_verbs(verb: Verb) -> None:
    """Looking at stores."""
    shown = verb("inspect", inspect, "what is in a store")
    shown.add_argument("store")
    shown.add_argument("--json", action="store_true", help="all facts, for programs")
    shown.add_argument("--html", type=Path, metavar="OUT", help="a page with histograms and pictures of the features")
    checked = verb("verify", verify, "checksums, sources and the teacher run again on random records")
    checked.add_argument("store")
    checked.add_argument("--records", type=int, default=8, help="random records to extract again (default 8)")
    checked.add_argument("--seed", type=int, default=0, help="which random records")
    checked.add_argument("--config", type=Path, help="cache config that says where the sources are now")
    checked.add_argument("--files-only", action="store_true", help="checksums alone: no data set, no teacher")
    add_store_tools(verb)


def add_store_tools(verb: Verb) -> None:
    """What changes or copies stores."""
    repacked = verb(
        "repack", repack, "another codec, shards or compression, from a store alone: no teacher, no data set"
    )
    repacked.add_argument("store")
    repacked.add_argument("out", help="folder of the new store")
    repacked.add_argument("--codec", metavar="K", help="e.g. int8; default: as it is, and the content id stays")
    repacked.add_argument("--shard-records", type=int, metavar="N", help="records a shard; default: as it is")
    repacked.add_argument("--compression", metavar="none|zstd", help="lossless; default: as it is")
    copied = verb("copy", copy, "a store to another place, every file checked while it is copied")
    copied.add_argument("store")
    copied.add_argument("dest", help="new folder, or URL; the same command continues a torn copy")
    pruned = verb("prune", prune, "shows what nothing refers to in a store's folder, and removes it with --yes")
    pruned.add_argument("store")
    pruned.add_argument("--yes", action="store_true", help="remove the files")


def plan(args: argparse.Namespace) -> int:
    from pipeline.cache.config import CacheConfig
    from pipeline.config import load_config, parse_size
    from pipeline.estimates import estimate, estimate_text
    from pipeline.training.config import TrainConfig

    config = load_config(CacheConfig, args.config, args.set)
    size = parse_size(args.budget) if args.budget else None
    made = estimate.estimate_costs(config, load_config(TrainConfig, args.train) if args.train else None, size)
    print("\n".join(estimate_text.describe(made)))
    if args.capacity:
        from pipeline.maintenance.capacity_page import elsewhere

        print("\n".join(["", *elsewhere(config, made)]))
    return 0 if made.fits else 1


def inspect(args: argparse.Namespace) -> None:
    import json

    from pipeline.cache.tools.inspect import describe
    from pipeline.cache.tools.inspect import inspect as look

    if args.html:
        from pipeline.report.store_page import write_card

        print(write_card(read_path(args.store), args.html))
        return
    facts = look(read_path(args.store))
    print(json.dumps(facts, indent=1) if args.json else "\n".join(describe(facts)))


def verify(args: argparse.Namespace) -> int:
    from pipeline.cache.config import CacheConfig
    from pipeline.cache.tools.verify import verify as run
    from pipeline.config import load_config

    config = load_config(CacheConfig, args.config) if args.config else None
    found = run(read_path(args.store), args.records, args.seed, config, sources=not args.files_only)
    for level, (cosine, error) in found.levels.items():
        print(f"{level:4} worst cosine {cosine:.7f}, worst relative error {error:.2e} over {found.records} records")
    lines = [*(f"note: {n}" for n in found.notes), *(f"FAILED: {p}" for p in found.problems)]
    print(with_urls("\n".join(lines or ["all good"])))
    return 0 if found.ok else 1


def repack(args: argparse.Namespace) -> None:
    from pipeline.cache.tools.repack import repack as run

    with console.progress("repacking", "records") as show:
        made = run(read_path(args.store), write_path(args.out), args.codec, args.shard_records, args.compression, show)
    print(f"{made.path}: {made.records} records, {made.written} written now; content id {made.content_id}")
    if made.left_out:
        print(f"note: {', '.join(made.left_out)} of the teacher's head are not in it; see sward extract --append")


def copy(args: argparse.Namespace) -> None:
    from pipeline.cache.tools.copy import copy as run

    with console.progress("copying", "MB") as show:
        made = run(
            read_path(args.store), write_path(args.dest), lambda done, total: show(done // 10**6, total // 10**6)
        )
    sizes = f"{made.bytes / 1e9:.3f} GB, {made.copied / 1e9:.3f} GB of them copied now"
    print(f"{with_urls(made.path)}: {made.files} files, {sizes}; all checked")


def prune(args: argparse.Namespace) -> None:
    from pipeline.cache.tools.prune import prune as run

    found = run(read_path(args.store), args.yes)
    for path, size in found.items():
        print(f"{size:12} {path}")
    what = "removed" if args.yes else "nothing refers to them; remove them with --yes"
    print(
        f"{len(found)} files, {sum(found.values())} bytes: {what}" if found else "nothing is left over", file=sys.stderr
    )
