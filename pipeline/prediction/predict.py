"""`sward predict`: masks and overlays of any pictures, with a run's student or an exported one.

One broken file stops nothing. A picture is brought to the student as training's identity view was (same resize,
same normalisation: `sward.pixels`), and its logits back to the picture's own size before argmax. A picture much larger
than the student's input loses its details in that; `tile` reads it in parts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.devices import resolve_device
from pipeline.drawing.masks import indexed, overlay
from pipeline.export.onnx_student import OnnxError, OnnxStudent
from pipeline.files import atomic
from pipeline.own_files import require_own_pictures, stamp
from pipeline.prediction.bit_depth import Window, require_window
from pipeline.prediction.images import explain, find_images, output_names, read_any
from pipeline.prediction.tiles import bands, tile_size
from sward.students import Segmenter, load

SMALLEST = 32  # pixels of a tile's shorter side: less shows a student no object
SHRUNK = 8  # a side more than this many times the student's: small objects have all but vanished


@dataclass
class Predicted:
    """What one call has done. ``failed``: path -> reason. ``shrunk``: read whole, though far larger than the student's
    input. ``passed_over``: file in a
    folder or pattern that is no picture to predict -> why."""

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    shrunk: list[Path] = field(default_factory=list)
    passed_over: dict[Path, str] = field(default_factory=dict)


def predict(
    source: str | Path,
    paths: Iterable[str | Path],
    out: str | Path,
    tile: int | None = None,
    probabilities: bool = False,
    window: Window | None = None,
    device: str = "auto",
) -> Predicted:
    """Write ``<name>_mask.png`` (indexed) and ``<name>_overlay.png`` below ``out`` for every picture.

    A file of such a name that this command did not write, or that was edited since, is never replaced.

    Args:
        source: a run's folder (student.json and student.safetensors), or an exported .onnx file.
        paths: pictures; folders, searched with all their subfolders; patterns (``frames/**/*.png``).
        out: folder for the results; pictures of a folder keep their place below it.
        tile: shorter side of overlapping tiles in pixels, for pictures larger than that; None: each as a whole.
        probabilities: also write ``<name>_probability-<k>-<class>.png`` for every class: 16 bits, 65535 is 1.
        window: values that become 0 and 255, for pictures of more than 8 bits, DICOM and NIfTI slices; None: pictures
            that use the full range of 16 bits are read, others refused.
        device: auto, cpu, cuda …; of an exported student: whether onnxruntime may use a GPU.

    Raises:
        ValueError: ``source`` is no student that reads images, the tiles are too small, the window is empty, ``out`` is
            a file, or there is no such device.
    """
    if tile is not None and tile < SMALLEST:
        raise ValueError(f"tiles of {tile} pixels: expected {SMALLEST} or more; leave --tile out to read images whole")
    require_window(window)
    require_folder(Path(out))
    where = resolve_device(device)
    model = open_model(source, gpu=where.type == "cuda" or device == "auto").to(where)
    images, failed, passed_over = find_images([Path(p).expanduser() for p in paths])
    done = Predicted(failed=failed, passed_over=passed_over)
    for path, name in output_names(images).items():
        try:
            files = output_files(Path(out) / name, model.classes if probabilities else [])
            require_own_pictures(*files)
            image = read_any(path, window)
            mask, scores = predict_image(model, image, tile, probabilities)
            save(files, image, mask, scores, len(model.classes))
        except Exception as error:
            done.failed[path] = explain(error)
            continue
        done.written.append(path)
        if tile is None and any(n > SHRUNK * s for n, s in zip(mask.shape, model.size, strict=True)):
            done.shrunk.append(path)
    return done


def require_folder(out: Path) -> None:
    """Raises ValueError if ``out``, or what should be a folder above it, is a file."""
    if there := next((p for p in (out, *out.parents) if p.exists() and not p.is_dir()), None):
        raise ValueError(f"--out {out}: {there} is a file; give a folder for the results")


def open_model(source: str | Path, gpu: bool = True) -> Segmenter:
    """A run's student or an exported one, with its preprocessing.

    Raises:
        OnnxError: a file that is no exported student.
        SavedStudentError: a folder without a student that reads images.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".onnx":
        raise OnnxError(f"{path}: expected a run's folder or an .onnx file that `sward export` made")
    if path.suffix != ".onnx":
        return load(path)
    if not path.is_file():
        raise OnnxError(f"{path}: no such file")
    student = OnnxStudent(path, gpu=gpu)
    return Segmenter(student, student.card)


@torch.no_grad()
def predict_image(
    model: Segmenter, image: np.ndarray, tile: int | None = None, probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """(class map (H, W) uint8, probabilities (K, H, W) uint16 or None) of a picture (H, W, 3) uint8."""
    size = tile_size(tile, model.size) if tile else image.shape[:2]
    if image.shape[0] <= size[0] and image.shape[1] <= size[1]:
        logits = model(torch.tensor(image).permute(2, 0, 1)[None])[0]
        return logits.argmax(0).to(torch.uint8).cpu().numpy(), sixteen(logits.softmax(0)) if probabilities else None
    mask = np.empty(image.shape[:2], np.uint8)
    scores = np.empty((len(model.classes), *mask.shape), np.uint16) if probabilities else None
    for top, band in bands(lambda part: torch.from_numpy(model.probabilities(part)), image, (size[0], size[1])):
        rows = slice(top, top + band.shape[1])
        mask[rows] = band.argmax(0).to(torch.uint8).numpy()
        if scores is not None:
            scores[:, rows] = sixteen(band)
    return mask, scores


def sixteen(probabilities: Tensor) -> np.ndarray:
    """[0, 1] as uint16: 65535 is 1."""
    return np.rint(probabilities.cpu().numpy().astype(np.float64) * 65535).astype(np.uint16)


def output_files(target: Path, classes: Sequence[str]) -> list[Path]:
    """Files of one picture: mask, overlay, and the probabilities of ``classes``."""
    plain = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") for name in classes]
    kinds = ["mask", "overlay", *(f"probability-{k}-{name}" for k, name in enumerate(plain))]
    return [target.with_name(f"{target.name}_{kind}.png") for kind in kinds]


def save(files: list[Path], image: np.ndarray, mask: np.ndarray, scores: np.ndarray | None, num_classes: int) -> None:
    """Writes all pictures of one answer to the paths of ``output_files``, each whole or not at all."""
    pictures = [indexed(mask, num_classes), Image.fromarray(overlay(image, mask, num_classes))]
    pictures += [Image.fromarray(plane) for plane in scores] if scores is not None else []
    for path, picture in zip(files, pictures, strict=True):
        with atomic(path) as file:
            picture.save(file, format="png", pnginfo=stamp(picture))
