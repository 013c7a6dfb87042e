"""The space in which a student's classifier decides (paper Fig. 4): its penultimate features at the same pixels for
every row, brought to the plane by t-SNE (scikit-learn).

Distances between clusters mean little in t-SNE; that classes mix or separate is what can be read from it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.report.charts import COLOURS, Chart, plain, slug
from pipeline.report.student_on_records import StudentOnRecords, probe, stored
from pipeline.results.masks import palette
from pipeline.results.runs import SavedRun
from sward import seeds
from sward.contracts import IGNORE

POINTS, OF_CLASS = 400, 40  # points, or points a class where that is more: half a second of t-SNE a row
IMAGES = 24
PERPLEXITY = 30


def space_charts(store: Store, runs: Mapping[str, SavedRun], subset: str) -> list[Chart]:
    """One chart a row that has kept its student: where pixels of each class lie."""
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
    """Equally many pixels of every class that is there: (P, 3) of image, y, x in [0, 1), and their classes (P,)."""
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
    """(P, C) float32 penultimate features of a student at the sampled pixels; one image in memory at a time."""
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
    """(P, 2) t-SNE of features (P, C); the same for the same features."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 4 or np.ptp(features, 0).max() == 0:
        return np.zeros((len(features), 2))
    state = seeds.torch_seed("report", "t-SNE") % 2**32
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    start = "pca" if features.shape[1] > 1 else "random"
    with threadpool_limits(1):  # sums in one order
        return TSNE(2, perplexity=perplexity, init=start, random_state=state).fit_transform(features)


def paint_space(axes: Any, points: np.ndarray, classes: np.ndarray, names: Sequence[str]) -> None:
    colours = class_colours(len(names))
    for c in np.unique(classes):
        chosen = points[classes == c]
        axes.plot(*chosen.T, "o", markersize=3.2, alpha=0.7, color=colours[c], markeredgewidth=0, label=plain(names[c]))
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2", aspect="equal", adjustable="datalim")


def class_colours(num_classes: int) -> list[Any]:
    """Of masks, darkened to stand out from white; the background, black there, is grey."""
    return [COLOURS[-1], *(tuple(c) for c in palette(num_classes)[1:] / 255 * 0.82)]
