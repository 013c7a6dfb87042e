"""`sward predict`: masks and overlays of any images, with a run's student; one broken file stops nothing.

An image is brought to the student as training's identity view was (same resize, same normalisation), and its
logits back to the image's own size before argmax.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline.devices import resolve_device
from pipeline.files import atomic
from pipeline.results.masks import indexed, overlay
from pipeline.results.runs import RunError, load_student
from pipeline.training.evaluate import full_prediction
from pipeline.views import View, normaliser, render
from sward.contracts import Student

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
OWN = re.compile(r"_(mask|overlay)\.png$")  # what this command writes; no input where it lies below `out`
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits


def predict(run_folder: str | Path, paths: Iterable[str | Path], out: str | Path) -> dict[Path, str]:
    """Write ``<name>_mask.png`` (indexed) and ``<name>_overlay.png`` below ``out`` for every image.

    Args:
        run_folder: a run with a student that reads images.
        paths: images, and folders that are searched with all their subfolders.
        out: folder for the results; images of a folder keep their place below it.

    Returns:
        What was not predicted, with the reason.

    Raises:
        RunError: there is no student, or it reads cached features.
    """
    student, card = load_student(run_folder)
    if student.reads != "images":
        raise RunError(f"{run_folder} holds a teacher head, which reads cached features; give a student's run")
    student.to(resolve_device("auto"))
    images, failed = find_images([Path(p) for p in paths], Path(out))
    for path, name in output_names(images).items():
        try:
            image = read_any(path)
            mask = predict_one(student, card, image)
            save(Path(out) / name, image, mask, len(card["classes"]))
        except Exception as error:
            failed[path] = f"{type(error).__name__}: {str(error) or 'no further word'}"
    return failed


def find_images(paths: Sequence[Path], out: Path) -> tuple[dict[Path, Path], dict[Path, str]]:
    """(image -> its root, the folder its name is relative to; path -> why there is nothing to predict)."""
    images: dict[Path, Path] = {}
    failed: dict[Path, str] = {}
    for path in paths:
        if path.is_file():
            images[path] = path.parent
        elif path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
            inside = [p for p in inside if not (OWN.search(p.name) and p.resolve().is_relative_to(out.resolve()))]
            images |= {p: path for p in inside if p not in images}
            if not inside:
                failed[path] = f"no images in this folder (looked for {', '.join(SUFFIXES)})"
        else:
            failed[path] = "no such file or folder"
    return images, failed


def output_names(images: dict[Path, Path]) -> dict[Path, Path]:
    """Image -> name below the output folder, without suffix; longer names only for those that would collide."""
    ways: list[Callable[[Path, Path], Path]] = [
        lambda path, root: path.relative_to(root).with_suffix(""),
        lambda path, root: path.relative_to(root),
        lambda path, root: Path(root.resolve().name) / path.relative_to(root),
        lambda path, root: Path(*path.resolve().parts[1:]),
    ]
    names: dict[Path, Path] = {}
    for way in ways:
        left = {path: way(path, root) for path, root in images.items() if path not in names}
        proposed = [*names.values(), *left.values()]
        names |= {path: name for path, name in left.items() if proposed.count(name) == 1}
    return names


def read_any(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright: EXIF rotation applied, 16 bits scaled, transparency over black.

    Raises:
        ValueError: several frames, or floating-point pixels.
        OSError: not a picture, or a damaged one.
    """
    with Image.open(path) as opened:
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            raise ValueError(f"{frames} frames in one file; save each as its own file")
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save the image with 8 or 16 bits")
    if image.mode in WIDE:
        image = Image.fromarray(np.clip(np.rint(np.asarray(image).astype(np.float64) / 257), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


@torch.no_grad()
def predict_one(student: Student, card: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """Class map (H, W) of an image (H, W, 3) uint8, at its own size."""
    height, width = image.shape[:2]
    whole = View(0, 0, 0, height, width)
    pixels, _ = render(image, np.zeros((height, width), np.uint8), whole, (card["size"][0], card["size"][1]))
    device = student.classifier.weight.device
    x = normaliser(card["mean"], card["std"], device)(torch.tensor(pixels, device=device).permute(2, 0, 1))
    return full_prediction(student(x[None]).logits[0].float(), (height, width))


def save(target: Path, image: np.ndarray, mask: np.ndarray, num_classes: int) -> None:
    """Both pictures beside each other, whole or not at all."""
    pictures = {"mask": indexed(mask, num_classes), "overlay": Image.fromarray(overlay(image, mask, num_classes))}
    for kind, picture in pictures.items():
        with atomic(target.with_name(f"{target.name}_{kind}.png")) as file:
            picture.save(file, format="png")
