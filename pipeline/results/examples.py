"""Test images from the worst to the best: image, ground truth, and what each row of the table predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.cache.records import Record
from pipeline.cache.store import Store
from pipeline.results.masks import data_uri, errors, fit, overlay
from pipeline.results.runs import Run
from pipeline.results.summary import image_means

PLACES = {"worst": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "best": 1.0}


def examples(store: Store, rows: Mapping[str, Sequence[Run]], metric: str) -> list[dict[str, Any]]:
    """One dictionary an image: its id, place, and pictures with captions. The last row of the table ranks them.

    Predictions are those of each row's first seed; the ranking uses the mean over seeds.
    """
    *_, ranking = rows.values()
    subset = ranking[0].evaluation["subset"]
    records = {r.id: r for r in store.records[subset]}
    ids = sorted(ranking[0].per_image(metric))
    order = np.argsort(image_means(ranking, metric), kind="stable")
    places = {place: ids[order[round(at * (len(ids) - 1))]] for place, at in PLACES.items()}
    first = {label: runs[0] for label, runs in rows.items() if (runs[0].path / "predictions").is_dir()}
    return [example(store, records[id], place, first, metric) for place, id in places.items()]


def example(store: Store, record: Record, place: str, runs: Mapping[str, Run], metric: str) -> dict[str, Any]:
    image, label = stored_image(store, record), store.full_label(record)
    small = fit(label, image.shape[:2])
    num_classes = len(store.classes)
    pictures = [
        {"title": "image", "note": f"{label.shape[1]}×{label.shape[0]}", "uri": data_uri(image)},
        {"title": "ground truth", "note": "", "uri": data_uri(overlay(image, small, num_classes))},
    ]
    for title, run in runs.items():
        found = fit(prediction(run.path, record.id), image.shape[:2])
        picture = errors(image, found, small) if num_classes == 2 else overlay(image, found, num_classes)
        note = f"{metric} {100 * run.per_image(metric)[record.id]:.1f} %"
        pictures.append({"title": title, "note": note, "uri": data_uri(picture)})
    return {"id": record.id, "place": place, "pictures": pictures}


def stored_image(store: Store, record: Record) -> np.ndarray:
    """The record's image as the student sees it, (H, W, 3) uint8."""
    shape, dtype = store.specs(record.subset)["image"]
    buffer = np.empty(shape, dtype)
    store.read(record, {"image": buffer})
    return buffer.transpose(1, 2, 0)


def prediction(folder: Path, id: str) -> np.ndarray:
    """The class map that the run wrote for an image."""
    with Image.open(folder / "predictions" / f"{id.replace('/', '__')}.png") as picture:
        return np.array(picture)
