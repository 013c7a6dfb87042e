"""`sward predict`: masks and overlays of any pictures, with a run's student or an exported one.

One broken file stops nothing. A picture is brought to the student as training's identity view was (same resize,
same normalisation: `sward.pixels`), and its logits back to the picture's own size before argmax. A picture much larger
than the student's input loses its details in that; `tile` reads it in parts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.devices import resolve_device
from pipeline.export.onnx_student import OnnxError, OnnxStudent
from pipeline.files import atomic
from pipeline.prediction.images import explain, find_images, output_names, read_any
from pipeline.prediction.tiles import bands, tile_size
from pipeline.results.masks import indexed, overlay
from sward.students import Segmenter, load

SMALLEST = 32  # pixels of a tile's shorter side: less shows a student no object
SHRUNK = 8  # a side more than this many times the student's: small objects have all but vanished


@dataclass
class Predicted:
    """What one call has done. ``failed``: path -> reason. ``shrunk``: read whole, though far larger than the student's
    input."""

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    shrunk: list[Path] = field(default_factory=list)


def predict(
    source: str | Path,
    paths: Iterable[str | Path],
    out: str | Path,
    tile: int | None = None,
    probabilities: bool = False,
) -> Predicted:
    """Write ``<name>_mask.png`` (indexed) and ``<name>_overlay.png`` below ``out`` for every picture.

    Args:
        source: a run's folder (student.json and student.safetensors), or an exported .onnx file.
        paths: pictures; folders, searched with all their subfolders; patterns (``frames/**/*.png``).
        out: folder for the results; pictures of a folder keep their place below it.
        tile: shorter side of overlapping tiles in pixels, for pictures larger than that; None: each as a whole.
        probabilities: also write ``<name>_probability-<k>-<class>.png`` for every class: 16 bits, 65535 is 1.

    Raises:
        ValueError: ``source`` is no student that reads images, or the tiles are too small.
    """
    if tile is not None and tile < SMALLEST:
        raise ValueError(f"tiles of {tile} pixels: expected {SMALLEST} or more; leave --tile out to read images whole")
    model = open_model(source).to(resolve_device("auto"))
    images, failed = find_images([Path(p).expanduser() for p in paths], Path(out))
    done = Predicted(failed=failed)
    for path, name in output_names(images).items():
        try:
            image = read_any(path)
            mask, scores = predict_image(model, image, tile, probabilities)
            save(Path(out) / name, image, mask, scores, model.classes)
        except Exception as error:
            done.failed[path] = explain(error)
            continue
        done.written.append(path)
        if tile is None and any(n > SHRUNK * s for n, s in zip(mask.shape, model.size, strict=True)):
            done.shrunk.append(path)
    return done


def open_model(source: str | Path) -> Segmenter:
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
    student = OnnxStudent(path)
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


def save(target: Path, image: np.ndarray, mask: np.ndarray, scores: np.ndarray | None, classes: list[str]) -> None:
    """All pictures of one answer beside each other, each whole or not at all."""
    pictures = {"mask": indexed(mask, len(classes)), "overlay": Image.fromarray(overlay(image, mask, len(classes)))}
    for k, name in enumerate(classes if scores is not None else []):
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
        pictures[f"probability-{k}-{plain}"] = Image.fromarray(scores[k])  # type: ignore[index]
    for kind, picture in pictures.items():
        with atomic(target.with_name(f"{target.name}_{kind}.png")) as file:
            picture.save(file, format="png")
