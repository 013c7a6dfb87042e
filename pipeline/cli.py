"""The `sward` command: every verb of both stages, without a server. `sward VERB --help` says more.

Heavy modules are imported inside the verbs, so that `sward --help` answers at once.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import console
from pipeline.paths import locate

# Every error for the user is a ValueError or an OSError, but these; by name, so that --help imports no torch.
EXPECTED = ("ValueError", "OSError", "ExtractionError", "NonFiniteError")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 stopped and resumable."""
    args = parser().parse_args(arguments)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt as stop:
        print(f"\nstopped; {str(stop) or 'what is finished is kept, the same command continues'}", file=sys.stderr)
        return 130
    except Exception as error:
        if not any(kind.__name__ in EXPECTED for kind in type(error).__mro__):
            raise
        print(f"sward {args.verb}: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    root = argparse.ArgumentParser(
        prog="sward", description="Distil a frozen Hiera encoder into small students, from a cache of its features."
    )
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int | None], about: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        return sub

    def configured(name: str, run: Callable[[argparse.Namespace], int | None], about: str) -> argparse.ArgumentParser:
        sub = verb(name, run, about)
        sub.add_argument("config", type=Path, help="YAML file")
        sub.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one setting")
        return sub

    configured("plan", plan, "what an extraction will cost, measured here, and whether caching pays")
    configured("extract", extract, "stage 1: make, continue or extend a feature store")
    configured("train", train, "stage 2: train (or resume) one student from a store")
    configured("compare", compare, "methods × seeds over one store: runs, table, report")
    inspect_verb = verb("inspect", inspect, "what is in a store")
    inspect_verb.add_argument("store", type=Path)
    inspect_verb.add_argument("--json", action="store_true", help="all facts, for programs")
    verify_verb = verb("verify", verify, "checksums, sources and the teacher run again on random records")
    verify_verb.add_argument("store", type=Path)
    verify_verb.add_argument("--records", type=int, default=8, help="random records to extract again (default 8)")
    verify_verb.add_argument("--seed", type=int, default=0, help="which random records")
    verify_verb.add_argument("--config", type=Path, help="cache config that says where the sources are now")
    verify_verb.add_argument("--files-only", action="store_true", help="checksums alone: no data set, no teacher")
    evaluate_verb = verb("evaluate", evaluate, "metrics of a finished run's student")
    evaluate_verb.add_argument("runs", type=Path, nargs="+", metavar="run")
    evaluate_verb.add_argument("--subset", choices=["val", "test"], default="test")
    report_verb = verb("report", report, "one self-contained HTML page of runs or of a comparison")
    report_verb.add_argument("runs", type=Path, nargs="+", metavar="run")
    report_verb.add_argument("--out", type=Path, default=Path("report.html"))
    predict_verb = verb("predict", predict, "masks and overlays of images or folders")
    predict_verb.add_argument("run_folder", type=Path, metavar="run")
    predict_verb.add_argument("images", type=Path, nargs="+", metavar="image")
    predict_verb.add_argument("--out", type=Path, default=Path("predictions"))
    quick = verb("quickstart", quickstart, "both stages on the embedded default, a table and a report")
    quick.add_argument("--config", type=Path, default=Path("configs/quickstart/compare.yaml"))
    return root


def plan(args: argparse.Namespace) -> int:
    from pipeline.cache import estimate
    from pipeline.cache.identity import CacheConfig
    from pipeline.config import load_config

    made = estimate.plan(load_config(CacheConfig, args.config, args.set))
    print("\n".join(estimate.describe(made, batch_size=8, steps_per_second=10)))
    return 0 if made.fits else 1


def extract(args: argparse.Namespace) -> None:
    from pipeline.cache.extract import extract as run
    from pipeline.cache.identity import CacheConfig
    from pipeline.config import load_config

    config = load_config(CacheConfig, args.config, args.set)
    with console.progress("extracting", "records") as show:
        made = run(config, show)
    print(f"{made.path}: {made.records} records, {made.computed} computed now; content id {made.content_id}")


def train(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.training.config import TrainConfig
    from pipeline.training.loop import train as run
    from pipeline.training.rundir import RunFolder

    config = load_config(TrainConfig, args.config, args.set)
    if RunFolder(config.folder).finished:
        print("finished before; nothing to train")
    with console.progress(config.name, "steps") as show:
        folder = run(config, lambda step, steps, logged: show(step, steps, logged.get("loss")))
    print("\n".join(console.run_lines(folder)))


def compare(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.results.compare import CompareConfig
    from pipeline.results.compare import compare as run

    print(run(load_config(CompareConfig, args.config, args.set)))


def inspect(args: argparse.Namespace) -> None:
    import json

    from pipeline.cache.inspect import describe
    from pipeline.cache.inspect import inspect as look

    facts = look(locate(args.store))
    print(json.dumps(facts, indent=1) if args.json else "\n".join(describe(facts)))


def verify(args: argparse.Namespace) -> int:
    from pipeline.cache.identity import CacheConfig
    from pipeline.cache.verify import verify as run
    from pipeline.config import load_config

    config = load_config(CacheConfig, args.config) if args.config else None
    found = run(locate(args.store), args.records, args.seed, config, sources=not args.files_only)
    for level, (cosine, error) in found.levels.items():
        print(f"{level:4} worst cosine {cosine:.7f}, worst relative error {error:.2e} over {found.records} records")
    print("\n".join([*(f"note: {n}" for n in found.notes), *(f"FAILED: {p}" for p in found.problems)] or ["all good"]))
    return 0 if found.ok else 1


def evaluate(args: argparse.Namespace) -> None:
    from pipeline.results.runs import evaluate_run

    for folder in args.runs:
        metrics = evaluate_run(folder, args.subset)["metrics"]
        print(f"{folder}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def report(args: argparse.Namespace) -> None:
    from pipeline.results.report import write_report

    print(write_report(args.runs, args.out))


def predict(args: argparse.Namespace) -> int:
    from pipeline.results.predict import predict as run

    failed = run(args.run_folder, args.images, args.out)
    print(f"masks and overlays: {args.out}")
    for path, reason in failed.items():
        print(f"not predicted: {path}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def quickstart(args: argparse.Namespace) -> None:
    from pipeline.results.quickstart import quickstart as run

    print(run(args.config))


if __name__ == "__main__":
    sys.exit(main())
