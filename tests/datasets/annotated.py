"""COCO and LabelMe files, and data sets of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from sets import IDS, SIZE, images, write_set

BOX = [8.0, 6.0, 20.0, 6.0, 20.0, 18.0, 8.0, 18.0]  # pycocotools' pixels are [8, 20) × [6, 18): exactly T


def runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths: column by column, beginning with zeros."""
    flat = np.concatenate([[0], mask.T.ravel(), [2]])
    counts, value, length = [], 0, 0
    for pixel in flat[1:-1]:
        if pixel != value:
            counts.append(length)
            value, length = pixel, 0
        length += 1
    return {"size": list(mask.shape), "counts": [*map(int, counts), length]}


def coco(
    areas: dict[str, list[tuple[int, Any]]], names: tuple[str, ...] = ("lesion",), prefix: str = ""
) -> dict[str, Any]:
    """A COCO file of areas (category, segmentation) by image; categories count from 1."""
    return {
        "images": [
            {"id": n, "file_name": f"{prefix}{i}.png", "height": SIZE[0], "width": SIZE[1]} for n, i in enumerate(areas)
        ],
        "annotations": [
            {"id": 100 * n + k, "image_id": n, "category_id": c, "segmentation": area, "iscrowd": 0}
            for n, of in enumerate(areas.values())
            for k, (c, area) in enumerate(of)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }


def coco_set(folder: Path, content: dict[str, Any], **card: Any) -> Path:
    files = images() | {"annotations.json": json.dumps(content)}
    return write_set(folder, files, **{"masks": "annotations.json", "classes": ["background", "lesion"], **card})


def changed(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(content))
    made["annotations"][0] |= changes
    return made


def shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def labelme(*shapes: dict[str, Any], **more: Any) -> str:
    return json.dumps({"version": "5", "shapes": list(shapes), "imageHeight": 24, "imageWidth": 32, **more})


def labelme_set(folder: Path, content: str, **card: Any) -> Path:
    usual = {"masks": "masks/{id}.json", "classes": ["background", "lesion"]}
    return write_set(folder, images() | {f"masks/{i}.json": content for i in IDS}, **usual | card)
