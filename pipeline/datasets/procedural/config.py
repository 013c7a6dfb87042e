"""Writes the embedded data set on first use: colonoscopy-like pairs computed from integers.

The files of one setting lie in a folder named by the digest of that setting, so a changed card never meets
files made under another. Pixels are those of this machine's NumPy: another CPU may differ in a last bit, and
the samples' digests then differ too.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from pipeline.datasets.procedural.scene import INSTRUMENT, LUMEN, POLYP, VERSION, paint
from sward import seeds
from sward.contracts import Config

SUBSET_CLASSES = {2: (POLYP,), 4: (POLYP, INSTRUMENT, LUMEN)}  # number of classes -> what is not background
COLOURS = (0, 0, 0, 230, 90, 160, 90, 160, 230, 240, 200, 60)  # of the masks' palette, for the eye only


class Counts(Config):
    """Images in each subset."""

    train: int = Field(default=40, ge=1, le=100_000, description="Training images.")
    val: int = Field(default=16, ge=1, le=100_000, description="Validation images.")
    test: int = Field(default=48, ge=1, le=100_000, description="Test images.")


class Procedural(Config):
    """The pairs are computed and written on first use; there is nothing to download."""

    kind: Literal["procedural"] = "procedural"
    counts: Counts = Field(default=Counts(), description="Images in each subset.")
    height: int = Field(default=160, ge=32, le=4096, description="Rows of an image.")
    width: int = Field(default=192, ge=32, le=4096, description="Columns of an image.")
    classes: Literal[2, 4] = Field(default=2, description="2: background, polyp; 4: also instrument and lumen.")
    seed: int = Field(default=0, ge=0, description="Family of the images; other seeds give other images.")


def render(seed: int, index: int, size: tuple[int, int], classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Image ``index`` of family ``seed``: RGB (H, W, 3) uint8 and labels (H, W) uint8 in 0..classes-1.

    A pure function: order, number and subset of other images don't matter. ``size`` is (height, width).

    Raises:
        ValueError: ``classes`` is neither 2 nor 4.
    """
    if classes not in SUBSET_CLASSES:
        raise ValueError(f"classes is {classes}; expected one of {sorted(SUBSET_CLASSES)}")
    image, label = paint(seed, index, size)
    return image, np.where(np.isin(label, SUBSET_CLASSES[classes]), label, 0).astype(np.uint8)


def ensure(source: Procedural, folder: Path) -> Path:
    """The folder with the source's ``images/`` and ``masks/`` below ``folder``, written now if absent."""
    content = json.dumps({"version": VERSION, **source.model_dump(mode="json")}, sort_keys=True)
    target = folder / f"made-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if not target.is_dir():
        generate(source, target)
        counts = ", ".join(f"{count} {subset}" for subset, count in source.counts)
        print(f"made the procedural data set ({counts}) in {target}", file=sys.stderr)
    return target


def generate(source: Procedural, target: Path) -> None:
    """Write all pairs of ``source`` to ``target``; it appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        for name in ("images", "masks"):
            (partial / name).mkdir()
        jobs = [(subset, n) for subset, count in source.counts for n in range(count)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda job: _write(source, partial, *job), jobs):
                pass
        partial.chmod(0o755)  # mkdtemp's folder is private
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: its files are the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(source: Procedural, folder: Path, subset: str, number: int) -> None:
    family = seeds.key("procedural set", source.seed, subset)
    image, label = render(family, number, (source.height, source.width), source.classes)
    name = f"{subset}-{number:04d}.png"
    Image.fromarray(image).save(folder / "images" / name)
    mask = Image.fromarray(label, "P")
    mask.putpalette(COLOURS)
    mask.save(folder / "masks" / name)
