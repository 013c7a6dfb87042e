"""The `sward` command: every verb of both stages, without a server. `sward VERB --help` says more.

Heavy modules are imported inside the verbs, so that `sward --help` answers at once.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.cli.store_verbs import add_plan, add_store_verbs
from pipeline.paths import read_path, with_urls

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
        print(f"sward {args.verb}: {with_urls(error)}", file=sys.stderr)
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

    add_plan(configured)
    extract_verb = configured("extract", extract, "stage 1: make, continue or extend a feature store")
    extract_verb.add_argument(
        "--append", metavar="TENSORS", help="add a fitted head's tensors to the store instead: logits,penultimate"
    )
    extract_verb.add_argument("--head", type=Path, metavar="RUN", help="with --append: folder that fit-head made")
    configured("fit-head", fit_head, "the teacher's head, fitted on cached features: its own row, logits for methods")
    train_verb = configured("train", train, "stage 2: train (or resume) one student from a store")
    train_verb.add_argument(
        "--profile",
        type=positive,
        nargs="?",
        const=20,
        metavar="STEPS",
        help="time the parts of so many steps (default 20): a table, profile.json and a trace in the run's folder",
    )
    configured("compare", compare, "methods × seeds over one store: runs, table, report")
    configured("quality", quality, "what views and codecs are worth: codecs × views × seeds; table, plot")
    add_store_verbs(verb)
    evaluate_verb = verb("evaluate", evaluate, "metrics of a finished run's student")
    evaluate_verb.add_argument("runs", type=Path, nargs="+", metavar="run")
    evaluate_verb.add_argument("--subset", choices=["val", "test"], default="test")
    report_verb = verb("report", report, "one self-contained HTML page of runs or of a comparison")
    report_verb.add_argument("runs", type=Path, nargs="+", metavar="run")
    report_verb.add_argument("--out", type=Path, default=Path("report.html"))
    report_verb.add_argument("--figures", type=Path, metavar="DIR", help="charts (PNG, SVG) and tables (md, csv, tex)")
    predict_verb = verb("predict", predict, "masks and overlays of images, folders or patterns")
    predict_verb.add_argument("source", type=Path, metavar="run|onnx", help="a run's folder, or an exported .onnx file")
    predict_verb.add_argument("images", type=Path, nargs="+", metavar="image", help="image, folder or quoted pattern")
    predict_verb.add_argument("--out", type=Path, default=Path("predictions"))
    predict_verb.add_argument("--tile", type=int, metavar="PIXELS", help="read larger images in tiles of this side")
    predict_verb.add_argument("--probabilities", action="store_true", help="also a 16-bit PNG for every class")
    export_verb = verb("export", export, "a run's student as ONNX or torch.export: checked, measured, with a card")
    export_verb.add_argument("run_folder", type=Path, metavar="run")
    export_verb.add_argument("--format", nargs="+", choices=["onnx", "torch-export"], default=["onnx"])
    export_verb.add_argument("--out", type=Path, help="a new folder (default: RUN/export)")
    export_verb.add_argument("--int8", action="store_true", help="also quantised, calibrated on the run's images")
    quick = verb("quickstart", quickstart, "both stages on the embedded default, a table and a report")
    quick.add_argument("--config", type=Path, default=Path("configs/quickstart/compare.yaml"))
    return root


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


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
    print(f"{with_urls(made.path)}: {made.records} records, {made.computed} computed now; content id {made.content_id}")


def append(args: argparse.Namespace, config: Any) -> None:
    from pipeline.training.teacher.append import append as run

    if not (args.append and args.head):
        raise ValueError(
            "--append and --head go together, e.g. --append logits,penultimate --head runs/teacher-seed0-…"
        )
    with console.progress("appending", "records") as show:
        made = run(
            read_path(config.store), tuple(args.append.split(",")), args.head, device=config.device, progress=show
        )
    print(f"{config.store}: {args.append} of {args.head}, {made} records computed now")


def fit_head(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.training.config import TrainConfig

    run_training(load_config(TrainConfig, args.config, args.set).head_run())


def train(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.training.config import TrainConfig

    run_training(load_config(TrainConfig, args.config, args.set), args.profile)


def run_training(config: Any, profile_steps: int | None = None) -> None:
    from pipeline.training.distributed import processes
    from pipeline.training.loop import train as run
    from pipeline.training.run_folder import RunFolder

    if RunFolder(config.folder).finished:
        print("finished before; nothing to train" + (", nothing to profile" if profile_steps else ""))
    try:
        with console.progress(config.name, "steps") as show:
            run(config, lambda step, steps, logged: show(step, steps, logged.get("loss")), profile_steps)
        if processes.rank() == 0:
            print("\n".join(console.run_lines(config.folder)))
    finally:
        if profile_steps and (config.folder / "profile.json").is_file():
            print("\n".join(console.profile_lines(config.folder)))


def compare(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.experiments.compare import compare as run
    from pipeline.experiments.compare_config import CompareConfig

    print(run(load_config(CompareConfig, args.config, args.set)))


def quality(args: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.experiments.quality import QualityConfig
    from pipeline.experiments.quality import quality as run

    print(run(load_config(QualityConfig, args.config, args.set)))


def evaluate(args: argparse.Namespace) -> None:
    from pipeline.results.runs import evaluate_run

    for folder in args.runs:
        metrics = evaluate_run(folder, args.subset)["metrics"]
        print(f"{folder}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def report(args: argparse.Namespace) -> None:
    from pipeline.report.report import write_report

    print(write_report(args.runs, args.out, args.figures))
    if args.figures:
        print(f"figures and tables: {args.figures}")


def predict(args: argparse.Namespace) -> int:
    from pipeline.prediction.predict import predict as run

    done = run(args.source, args.images, args.out, args.tile, args.probabilities)
    print(f"{len(done.written)} images predicted: {args.out}")
    if done.shrunk:
        print(f"note: {len(done.shrunk)} are far larger than what the student reads: see --tile", file=sys.stderr)
    for path, reason in done.failed.items():
        print(f"not predicted: {path}: {reason}", file=sys.stderr)
    return 1 if done.failed else 0


def export(args: argparse.Namespace) -> None:
    from pipeline.export.export import export as run
    from pipeline.export.model_card import summary

    facts, folder = run(args.run_folder, args.out or args.run_folder / "export", args.format, args.int8)
    print("\n".join([*summary(facts), f"{folder}: {', '.join(facts.files)}, model-card.md, export.json"]))


def quickstart(args: argparse.Namespace) -> None:
    from pipeline.experiments.quickstart import quickstart as run

    print(run(args.config))
