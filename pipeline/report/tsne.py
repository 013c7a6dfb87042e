"""t-SNE plots of the students' penultimate features (paper Fig. 4).

These features are the input of a student's classifier. They are taken at the same pixels for every row and projected
to the plane by scikit-learn. In t-SNE, distances between clusters mean little; the plots show whether classes mix or
separate.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.drawing.masks import palette
from pipeline.report.charts import COLOURS, Chart, plain, slug
from pipeline.report.student_on_records import StudentOnRecords, probe, stored
from pipeline.results.runs import SavedRun
from sward import seeds
from sward.contracts import IGNORE

POINTS, OF_CLASS = 400, 40  # points in total, but at least this many per class: 0.5 s of t-SNE per row
IMAGES = 24
PERPLEXITY = 30


def space_charts(store: Store, runs: Mapping[str, SavedRun], subset: str) -> list[Chart]:
    """One chart for each row that has kept its student; the colour of a point is its pixel's class."""
    every = store.records[subset]
    records = [every[i] for i in sorted(seeds.permutation(len(every), "report", "images")[:IMAGES])]
    pixels, classes = sample_pixels([stored(store, r, "label") for r in records])
    found = []
    for i, (label, run) in enumerate(runs.items()):
        if (shown := probe(run, store)) is None:
            continue
        points = plane(penultimate_at(shown, records, pixels))
        paint = partial(paint_space, points=points, classes=classes, names=store.classes)
        found.append(
            Chart(
                f"space-{slug(label)}", f"Penultimate space of {label}", paint, (3.6, 3.5 + len(store.classes) / 20), i
            )
        )
    return found


def sample_pixels(labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Draws equally many pixels of each class that occurs; all pixels of a class that has too few.

    Returns:
        (P, 3) number of the image, y and x in [0, 1); and (P,) classes.
    """
    stack = np.stack(labels)
    present = [int(c) for c in np.unique(stack) if c != IGNORE]
    count = max(OF_CLASS, POINTS // len(present))
    chosen = []
    for c in present:
        places = np.argwhere(stack == c)
        chosen.append(places[seeds.permutation(len(places), "report", "pixels", c)[:count]])
    classes = np.repeat(present, [len(places) for places in chosen])
    return np.concatenate(chosen) / (1, *stack.shape[1:]), classes


@torch.no_grad()
def penultimate_at(student: StudentOnRecords, records: Sequence[Record], pixels: np.ndarray) -> np.ndarray:
    """Penultimate features of a student at the sampled pixels, (P, C) float32; holds one image in memory at a time."""
    order, found = [], []
    for number, record in enumerate(records):
        (here,) = np.nonzero(pixels[:, 0] == number)
        if len(here):
            f_CHW = student.student(student.inputs(record)).penultimate[0].float()
            y, x = (pixels[here, 1:] * f_CHW.shape[1:]).astype(np.int64).T
            order.append(here)
            found.append(f_CHW[:, y, x].T.numpy())
    return np.concatenate(found)[np.argsort(np.concatenate(order), kind="stable")]


def plane(features: np.ndarray) -> np.ndarray:
    """Projects features (P, C) to (P, 2) by t-SNE; the same features give the same points."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 4 or np.ptp(features, 0).max() == 0:
        return np.zeros((len(features), 2))
    state = seeds.torch_seed("report", "t-SNE") % 2**32
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    start = "pca" if features.shape[1] > 1 else "random"
    with threadpool_limits(1):  # one thread: sums are always taken in the same order
        return TSNE(2, perplexity=perplexity, init=start, random_state=state).fit_transform(features)


def paint_space(axes: Any, points: np.ndarray, classes: np.ndarray, names: Sequence[str]) -> None:
    colours = class_colours(len(names))
    for c in np.unique(classes):
        chosen = points[classes == c]
        axes.plot(*chosen.T, "o", markersize=3.2, alpha=0.7, color=colours[c], markeredgewidth=0, label=plain(names[c]))
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2", aspect="equal", adjustable="datalim")


def class_colours(num_classes: int) -> list[Any]:
    """The palette of masks, darkened to stand out from white; class 0, black in the palette, is grey."""
    return [COLOURS[-1], *(tuple(c) for c in palette(num_classes)[1:] / 255 * 0.82)]
