"""Verbs of the `sward` command that work on finished runs: their arguments and their output."""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from pipeline import console
from pipeline.cli.store_verbs import Verb, a_path


def add_result_verbs(verb: Verb) -> None:
    """Adds the verbs that evaluate runs and present them, then those that use a run's student."""
    evaluate_verb = verb("evaluate", evaluate, "Compute the metrics of the students of finished runs.")
    evaluate_verb.add_argument(
        "runs",
        type=a_path,
        nargs="+",
        metavar="run",
        help="Folder of a finished run, with or without the hash at its end.",
    )
    evaluate_verb.add_argument(
        "--subset", choices=["val", "test"], default="test", help="Split to evaluate on (default: test)."
    )
    report_verb = verb("report", report, "Write one self-contained HTML page about runs or a comparison.")
    report_verb.add_argument(
        "runs",
        type=a_path,
        nargs="+",
        metavar="run",
        help="Run folder (finished or not), folder that contains run folders, or folder of one comparison.",
    )
    report_verb.add_argument(
        "--out", type=a_path, default=Path("report.html"), help="HTML file to write (default: report.html)."
    )
    report_verb.add_argument(
        "--figures",
        type=a_path,
        metavar="DIR",
        help="Also write charts (PNG, SVG) and tables (Markdown, CSV, LaTeX) to this folder.",
    )
    add_student_verbs(verb)


def add_student_verbs(verb: Verb) -> None:
    """Adds the verbs that apply or export a trained student."""
    predict_verb = verb("predict", predict, "Predict masks and overlays for images.")
    predict_verb.add_argument("source", type=a_path, metavar="run|onnx", help="Run folder, or exported .onnx file.")
    predict_verb.add_argument(
        "images",
        type=a_path,
        nargs="+",
        metavar="image",
        help="Image file, folder of images, or quoted glob pattern.",
    )
    predict_verb.add_argument(
        "--out", type=a_path, default=Path("predictions"), help="Folder for the results (default: predictions)."
    )
    predict_verb.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="Split images larger than this into overlapping tiles with this shorter side, in pixels.",
    )
    predict_verb.add_argument(
        "--probabilities", action="store_true", help="Also write a 16-bit PNG with the probabilities of each class."
    )
    predict_verb.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="Values that become black and white, for images of more than 8 bits, e.g. 0 4095 for 12-bit data "
        "(default: 0 65535 if an image uses that range, else it is refused).",
    )
    predict_verb.add_argument(
        "--device", default="auto", help="Device of the student: auto, cpu, cuda … (default: auto)."
    )
    export_verb = verb(
        "export",
        export,
        "Export a run's student as ONNX, torch.export or a page for browsers, checked against torch, with a card.",
    )
    export_verb.add_argument("run_folder", type=a_path, metavar="run", help="Run folder.")
    export_verb.add_argument(
        "--format",
        nargs="+",
        choices=["onnx", "torch-export", "web"],
        default=["onnx"],
        help="Formats to write (default: onnx); web: ONNX and a page that runs it in a browser.",
    )
    export_verb.add_argument(
        "--runtime",
        type=a_path,
        metavar="FILE",
        help="The package onnxruntime-web for --format web, as `npm pack` writes it (default: npm fetches it once).",
    )
    export_verb.add_argument("--out", type=a_path, help="New or empty folder for the files (default: RUN/export).")
    export_verb.add_argument(
        "--int8",
        action="store_true",
        help="Also write an int8 ONNX file, calibrated on up to 64 training images of the store.",
    )


def evaluate(args: argparse.Namespace) -> None:
    from pipeline.results.runs import evaluate_run, find_run

    for folder in map(find_run, args.runs):
        metrics = evaluate_run(folder, args.subset)["metrics"]
        defined = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        console.tell("\n".join([f"{folder}:", *console.metric_table({args.subset: defined})]))


def report(args: argparse.Namespace) -> None:
    from pipeline.report.report import write_report
    from pipeline.results.runs import find_run

    folders = [path if path.exists() else find_run(path) for path in args.runs]
    console.say(write_report(folders, args.out, args.figures))
    if args.figures:
        console.say(f"figures and tables: {args.figures}")


def predict(args: argparse.Namespace) -> int:
    from pipeline.prediction.predict import predict as run
    from pipeline.results.runs import find_run

    window = tuple(args.window) if args.window else None
    found = find_run(args.source)
    done = run(found, args.images, args.out, args.tile, args.probabilities, window, args.device)
    console.tell(f"{len(done.written)} images predicted: {args.out}")
    if done.shrunk:
        console.tell(
            f"note: {len(done.shrunk)} images are far larger than the student's input; see --tile", file=sys.stderr
        )
    for reason, count in Counter(done.passed_over.values()).items():
        example = next(path for path, why in done.passed_over.items() if why == reason)
        console.tell(f"passed over: {count} files, e.g. {example}: {reason}", file=sys.stderr)
    for path, reason in done.failed.items():
        console.tell(f"not predicted: {path}: {reason}", file=sys.stderr)
    return 1 if done.failed else 0


def export(args: argparse.Namespace) -> None:
    from pipeline.export.export import export as run
    from pipeline.export.model_card import summary
    from pipeline.export.web import how_to_open
    from pipeline.results.runs import find_run

    source = find_run(args.run_folder)
    facts, folder = run(source, args.out or source / "export", args.format, args.int8, args.runtime)
    console.tell("\n".join([*summary(facts), f"{folder}: {', '.join(facts.files)}, model-card.md, export.json"]))
    if "web" in args.format:
        console.tell(how_to_open(folder))
