"""`sward export`: writes a run's student as files that work without this code, checked before publication.

    OUT/student.onnx        opset 18, metadata inside     OUT/student.pt2   torch.export, metadata inside
    OUT/student-int8.onnx   with --int8                   OUT/student.json  the metadata: preprocessing, classes
    OUT/model-card.md       description for readers       OUT/export.json   the card's figures, for programs
    OUT/index.html          with `web`: a page that runs student.onnx in a browser (`web.py`)

All files are made in a hidden folder next to OUT and checked there against torch; then the folder is renamed to OUT.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from pipeline.cache.store import Store
from pipeline.documents import Facts, StudentCard, read_document
from pipeline.export.check import ExportError, check, real_images, torch_export_runner
from pipeline.export.graph import Graph, embed, to_onnx, to_torch_export, trace
from pipeline.export.int8 import judge, quantise
from pipeline.export.model_card import ExportFacts, model_card
from pipeline.export.onnx_student import OnnxStudent, require_package
from pipeline.export.speed import flops, machine, speeds
from pipeline.export.web import write_page
from pipeline.export.web_runtime import find_runtime
from pipeline.files import publish, unpublished, write_atomic, write_json
from sward.contracts import Student
from sward.students import load

Format = Literal["onnx", "torch-export", "web"]
FILES = {"onnx": "student.onnx", "torch-export": "student.pt2"}
INT8 = "student-int8.onnx"


def export(
    run: str | Path,
    out: str | Path,
    formats: Sequence[Format] = ("onnx",),
    int8: bool = False,
    web_runtime: Path | None = None,
) -> tuple[ExportFacts, Path]:
    """Exports a run's student.

    Args:
        run: a run's folder; student.json and student.safetensors suffice, but checks on real images need its store.
        out: a new or empty folder.
        formats: formats to write; ``web`` includes ``onnx``.
        web_runtime: the package onnxruntime-web, a .tgz file, for ``web``; None: from the cache, or fetched by npm.
        int8: also write an int8 version of the ONNX file.

    Returns:
        The contents of the model card, measurements included, and the folder.

    Raises:
        ExportError: the folder is not empty, int8 lacks the store or the ONNX file, onnxruntime-web cannot be had, or
            a file disagrees with torch.
        OnnxError: onnx, onnxscript or onnxruntime is not installed.
        SavedStudentError: the run has no student that reads images.
    """
    run, out = Path(run), Path(out)
    model = load(run)
    card = read_document(run / "student.json", StudentCard)
    store, why = find_store(run, card)
    files = [*dict.fromkeys("onnx" if kind == "web" else kind for kind in formats)]
    check_export(out, files, int8, store, why)
    package = find_runtime(web_runtime) if "web" in formats else None
    with unpublished(out) as partial:
        if package:
            write_page(partial, run.resolve().name, about(card), package)
        facts = write_export(partial, run, model.network, card, store, why, files, int8)
        publish(partial, out)
    return facts, out


def check_export(out: Path, formats: Sequence[str], int8: bool, store: Store | None, why: str) -> None:
    """Checks that the export can succeed, before any work.

    Raises:
        ExportError: the folder is not empty, or int8 lacks the ONNX file or the store.
        OnnxError: a package needed for ONNX is not installed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is not empty; give another --out or remove the folder: export never overwrites")
    if int8 and "onnx" not in formats:
        raise ExportError("--int8 quantises the ONNX file; add --format onnx")
    if int8 and store is None:
        raise ExportError(f"--int8 is calibrated on the run's images, but {why}; restore the store or omit --int8")
    for package in ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats else ():
        require_package(package)


def find_store(run: Path, card: dict[str, Any]) -> tuple[Store | None, str]:
    """Opens the store that the student was trained from: (store, ""), or (None, why it cannot be used)."""
    from pipeline.config import load_config
    from pipeline.training.config import TrainConfig
    from pipeline.training.setup import open_store

    if not (run / "config.yaml").is_file():
        return None, f"{run} has no config.yaml, which names its store"
    try:
        store = open_store(load_config(TrainConfig, run / "config.yaml"))
    except (ValueError, OSError) as error:
        return None, f"its store cannot be used ({str(error).splitlines()[0]})"
    if store.content_id != card.get("content_id"):
        return None, f"the store {store.path} has changed since the run (another content id)"
    return store, ""


def write_export(
    folder: Path,
    run: Path,
    student: Student,
    card: dict[str, Any],
    store: Store | None,
    why: str,
    formats: Sequence[str],
    int8: bool,
) -> ExportFacts:
    """Writes and checks all files in ``folder``, which is not published yet."""
    graph, metadata = trace(student, tuple(card["size"])), about(card)
    makers: dict[str, Callable[[Graph, dict[str, Any]], bytes]] = {"onnx": to_onnx, "torch-export": to_torch_export}
    real, checks = real_images(student, store), []
    for kind in formats:
        path = folder / FILES[kind]
        write_atomic(path, makers[kind](graph, metadata))
        runner = torch_export_runner(path) if kind == "torch-export" else onnx_runner(path)
        checks.append(check(student, runner, graph, path.name, real))
    calibrated = quantised(folder, metadata, store) if int8 and store else 0
    onnx_files = sorted(folder.glob("*.onnx"), key=lambda p: len(p.name))
    judged = judge(student, folder / INT8, store) if calibrated and store else {}
    write_json(folder / "student.json", metadata)
    facts = ExportFacts(
        name=run.resolve().name,
        card=card,
        run=read_document(run / "run.json", Facts) if (run / "run.json").is_file() else {},
        origin=origin(store),
        graph=graph.describe(),
        limits=graph.limits,
        files={str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()},
        checks=checks,
        parameters=sum(p.numel() for p in student.parameters()),
        flops=flops(student, graph.size),
        machine=machine(),
        speeds=speeds(student, onnx_files, graph.size),
        real=f"{len(real)} of the validation split" if store else f"none, because {why}",
        calibrated=calibrated,
        judged=judged,
    )
    write_atomic(folder / "model-card.md", model_card(facts))
    write_json(folder / "export.json", asdict(facts))
    return facts


def about(card: dict[str, Any]) -> dict[str, Any]:
    """Metadata needed to use the exported file without this code: preprocessing, classes, output, origin."""
    return {
        "classes": card["classes"],
        "size": card["size"],
        "mean": card["mean"],
        "std": card["std"],
        "input": "images: float32 (batch, 3, height, width), RGB, (pixel / 255 - mean) / std",
        "resize": "the whole picture to size (height, width): bilinear, antialiased, as Pillow; aspect not kept",
        "output": "logits: float32 (batch, classes, h, w); enlarge bilinearly (corners not aligned), then argmax",
        "student": card["student"],
        "method": card.get("method"),
        "run": card.get("run"),
        "content_id": card.get("content_id"),
    }


def origin(store: Store | None) -> dict[str, str]:
    """Data, split, teacher and store that the student was trained from, as far as the store is available."""
    if store is None:
        return {"trained on": "unknown: the store is not available"}
    shown = {
        "data.name": "data",
        "data.split": "split",
        "teacher.architecture": "teacher",
        "teacher.digest": "its digest",
    }
    found = {title: str(store.identity[key]) for key, title in shown.items() if key in store.identity}
    return found | {"store": store.content_id[:16]}


def quantised(folder: Path, metadata: dict[str, Any], store: Store) -> int:
    """Writes student-int8.onnx with the metadata; returns the number of calibration images."""
    onnx = require_package("onnx")
    raw = folder / "raw.onnx"
    count = quantise(folder / FILES["onnx"], raw, store)
    model = onnx.load(raw)
    embed(model, metadata)
    write_atomic(folder / INT8, model.SerializeToString())
    raw.unlink()
    return count


def onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns a function that runs the file with onnxruntime on the CPU: images -> logits."""
    exported = OnnxStudent(path, gpu=False)
    return lambda images: exported(images).logits
