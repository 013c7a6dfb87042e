"""Example images from the worst to the best, with ground truth and each row's prediction (paper Fig. 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.drawing.masks import class_layer, error_layer, fit
from pipeline.report.layered_image import Picture
from pipeline.report.student_on_records import stored
from pipeline.results.rows import image_means
from pipeline.results.runs import SavedRun, prediction
from sward.metrics.names import NAMES

CASES = 9  # worst, median and best, with three between each two


@dataclass(frozen=True)
class Case:
    """One example image.

    Attributes:
        record: the image's record in the store.
        place: rank in words, e.g. `worst, 1 of 48`.
        key: True for worst, median and best, which are also printed and written to files.
        pictures: image, ground truth, then one picture per row.
    """

    record: Record
    place: str
    key: bool
    pictures: tuple[Picture, ...]


def examples(store: Store, rows: Mapping[str, Sequence[SavedRun]], metric: str) -> list[Case]:
    """Chooses images evenly over the ranking by ``metric`` of the last row.

    The metric is averaged over seeds; images where it is undefined come last. Predictions are those of each row's
    first seed.
    """
    *_, ranking = rows.values()
    records = {r.id: r for r in store.records[ranking[0].evaluation["subset"]]}
    ids = sorted(ranking[0].per_image(metric))
    order = np.argsort(image_means(ranking, metric), kind="stable")
    ranks = np.rint(np.linspace(0, len(ids) - 1, min(CASES, len(ids)))).astype(int)
    first = {label: runs[0] for label, runs in rows.items()}
    return [
        Case(
            record := records[ids[order[rank]]],
            place(int(rank), len(ids), int(ranks[len(ranks) // 2])),
            rank in (0, len(ids) - 1, ranks[len(ranks) // 2]),
            tuple(pictures(store, record, first, metric)),
        )
        for rank in ranks
    ]


def place(rank: int, count: int, middle: int) -> str:
    """Formats a rank, e.g. `worst, 1 of 48`."""
    word = {middle: "median, ", 0: "worst, ", count - 1: "best, "}.get(rank, "")
    return f"{word}{rank + 1} of {count}"


def pictures(store: Store, record: Record, runs: Mapping[str, SavedRun], metric: str) -> list[Picture]:
    """Pictures of one image: the image, its ground truth, and each row that has kept its predictions."""
    image, label = stored_image(store, record), store.full_label(record)
    small, num_classes = fit(label, image.shape[:2]), len(store.classes)
    truth = {"mask": class_layer(small, num_classes)}
    shown = [Picture("image", f"{label.shape[1]}×{label.shape[0]}", image), Picture("ground truth", "", image, truth)]
    for i, (title, run) in enumerate(runs.items()):
        if (run.path / "predictions").is_dir():
            found = fit(prediction(run.path, record.id), image.shape[:2])
            layers = {"errors": error_layer(found, small, num_classes), "mask": class_layer(found, num_classes)}
            note = f"{NAMES[metric].removeprefix('m')} {100 * run.per_image(metric)[record.id]:.1f} %"
            shown.append(Picture(title, note, image, layers, i))
    return shown


def stored_image(store: Store, record: Record) -> np.ndarray:
    """Reads the record's image as the student sees it, (H, W, 3) uint8; the store holds (3, H, W)."""
    return stored(store, record, "image").transpose(1, 2, 0)
