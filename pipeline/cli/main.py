"""The `sward` command: one verb for each action of both stages; none needs a server.

Heavy modules are imported inside the verbs, so that `sward --help` answers at once.
"""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.cli.missing_packages import install_hint
from pipeline.cli.result_verbs import add_result_verbs
from pipeline.cli.start_verbs import add_start_verbs
from pipeline.cli.store_verbs import Run, a_path, add_plan, add_store_verbs
from pipeline.cli.suggesting_parser import SuggestingParser
from pipeline.cli.train_verbs import add_train, positive
from pipeline.paths import read_path, with_urls

# Bases of errors whose message is meant for the user; others are bugs. By name, so that --help imports no torch.
EXPECTED = ("ValueError", "OSError", "ExtractionError", "NonFiniteError", "OutOfMemoryError")
OUT_OF_MEMORY = {  # verb -> what makes it take less memory of the GPU
    "extract": "lower batch_size (--set batch_size=1), or set teacher.autocast: true",
    "train": "lower batch_size (accumulate: 2 keeps the step's size), set precision: bf16-mixed, or prefetch: 1",
    "predict": "use tiles (--tile 1024), or --device cpu",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status.

    0: done; 1: refused or failed; 2: wrong usage; 130: stopped and resumable; 141: the reader of the output is gone.
    """
    root = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(root)
    try:
        return run_verb(root.parse_args(arguments))
    except KeyboardInterrupt as stop:
        console.say(f"\nstopped; {stop}" if str(stop) else console.STOPPED, file=sys.stderr)
        return 130


def run_verb(args: argparse.Namespace) -> int:
    """Runs the verb of parsed arguments; returns the exit status, with the reason printed where it is not 0."""
    try:
        status: int = args.run(args) or 0
        sys.stdout.flush()
        return status
    except Exception as error:
        if isinstance(error, BrokenPipeError) and console.without_reader():
            return 141  # 128 + SIGPIPE, as other programs end
        if isinstance(error, ModuleNotFoundError) and (hint := install_hint(error)):
            console.tell(f"sward {args.verb}: {hint}", file=sys.stderr)
            return 1
        if not any(kind.__name__ in EXPECTED for kind in type(error).__mro__):
            raise
        console.tell(f"sward {args.verb}: {explained(error, args.verb)}", file=sys.stderr)
        return 1


def explained(error: Exception, verb: str) -> str:
    """The error's message for people; of a full GPU with what to do, because torch's own message is about torch."""
    if isinstance(error, FileExistsError | NotADirectoryError) and (file := file_in_the_way(error)):
        return f"{file} is a file, where a folder is expected; set another place, or move the file away"
    if type(error).__name__ != "OutOfMemoryError":
        return with_urls(error)
    remedy, asked = OUT_OF_MEMORY.get(verb, OUT_OF_MEMORY["train"]), ". ".join(str(error).split(". ")[:2])
    return f"the GPU's memory is full ({asked}); {remedy}, use a GPU with more memory, or end other programs on it"


def file_in_the_way(error: OSError) -> Path | None:
    """The file that is, or stands above, the place of a system's error; None where the error names none."""
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | Path) else None
    return next((p for p in (place, *place.parents) if p.is_file()), None) if place else None


def parser() -> argparse.ArgumentParser:
    """Builds the parser of all verbs and their arguments."""
    root = SuggestingParser(
        prog="sward",
        description="Distil a frozen Hiera encoder into small students, from a cache of its features.",
        epilog="Details of a verb: sward VERB --help",
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {version('sward')}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Run, about: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        return sub

    def configured(name: str, run: Run, about: str) -> argparse.ArgumentParser:
        sub = verb(name, run, about)
        sub.add_argument("config", type=a_path, help="YAML configuration file.")
        sub.add_argument(
            "--set", action="append", default=[], metavar="A.B=VALUE", help="Override one setting; may be repeated."
        )
        return sub

    add_start_verbs(verb)
    add_plan(configured)
    extract_verb = configured("extract", extract, "Stage 1: create, continue or extend a feature store.")
    extract_verb.add_argument(
        "--append",
        metavar="TENSORS",
        help="Append tensors of a fitted head to the existing store instead of extracting, e.g. logits,penultimate.",
    )
    extract_verb.add_argument(
        "--head",
        type=a_path,
        metavar="RUN",
        help="With --append: folder of the head's run, made by `sward fit-head`.",
    )
    add_train(configured)
    compare_verb = configured("compare", compare, "Train methods × seeds from one store; write table and report.")
    compare_verb.add_argument(
        "--fresh",
        action="store_true",
        help="Train again what another commit, other versions or another number of threads made; the old runs are kept "
        "under other names.",
    )
    compare_verb.add_argument(
        "--plan",
        type=positive,
        metavar="SEEDS",
        help="Train nothing: print which differences the saved comparison can find, now and with so many seeds.",
    )
    configured(
        "quality",
        quality,
        "Measure how codec and number of views affect a student: codecs × views × seeds, as table and plot.",
    )
    add_store_verbs(verb)
    add_result_verbs(verb)
    quick = verb("quickstart", quickstart, "Run both stages on the embedded data set; write table and report.")
    quick.add_argument(
        "--config",
        type=a_path,
        default=Path("configs/quickstart/compare.yaml"),
        help="Config of the comparison (default: configs/quickstart/compare.yaml).",
    )
    return root


def extract(args: argparse.Namespace) -> None:
    from pipeline.cache.config import CacheConfig
    from pipeline.cache.extraction.extract import extract as run
    from pipeline.config import load_config

    config = load_config(CacheConfig, args.config, args.set)
    if args.append or args.head:
        append(args, config)
        return
    with console.progress("extracting", "records") as show:
        made = run(config, show)
    console.tell(
        f"{with_urls(made.path)}: {made.records} records, {made.computed} computed now; content id {made.content_id}"
    )


def append(args: argparse.Namespace, config: Any) -> None:
    from pipeline.training.teacher.append import append as run

    if not (args.append and args.head):
        raise ValueError(
            "--append and --head must be given together, e.g. --append logits,penultimate --head runs/teacher-seed0-…"
        )
    with console.progress("appending", "records") as show:
        made = run(
            read_path(config.store), tuple(args.append.split(",")), args.head, device=config.device, progress=show
        )
    console.tell(f"{config.store}: {args.append} of {args.head}, {made} records computed now")


def compare(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.experiments.compare import compare as run
    from pipeline.experiments.compare_config import CompareConfig

    config = load_config(CompareConfig, args.config, args.set)
    if args.plan:
        from pipeline.experiments.compare import saved_power

        console.tell(saved_power(config, args.plan))
    else:
        console.tell(run(config, args.fresh))


def quality(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.experiments.quality import QualityConfig
    from pipeline.experiments.quality import quality as run

    console.tell(run(load_config(QualityConfig, args.config, args.set)))


def quickstart(args: argparse.Namespace) -> None:
    from pipeline.experiments.quickstart import quickstart as run

    console.tell(run(args.config))
