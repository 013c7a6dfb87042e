"""Grad-CAM maps of a report: of the class that the image shows most, and none where an image shows no class."""

import shutil

import numpy as np
from PIL import Image

from pipeline.cache.manifest.records import full_label_path
from pipeline.cache.store import Store
from pipeline.report.examples import examples
from pipeline.report.grad_cam import activations, main_class
from pipeline.results.runs import load_run


def test_the_class_is_the_largest_one_without_background_and_ignored_pixels():
    assert main_class(np.array([[0, 0, 1, 2], [2, 255, 255, 255]], np.uint8)) == 2
    assert main_class(np.array([[0, 255]], np.uint8)) == 0


def test_an_image_in_which_no_class_occurs_has_no_map(compared, tmp_path, monkeypatch):
    shutil.copytree(compared.config.train.cache.store, tmp_path / "store.zarr")
    store, rows = Store(tmp_path / "store.zarr"), {"SWARD": [load_run(compared.run("SWARD"))]}
    cases = examples(store, rows, "dice")
    assert [case.record.id for case in activations(store, rows, cases)] == [case.record.id for case in cases]
    blank = full_label_path(store.path, cases[1].record.digest)
    Image.fromarray(np.zeros_like(np.array(Image.open(blank)))).save(blank)
    monkeypatch.setattr(store.first_reads, "require_full_label", lambda record, png: None)  # it is another label
    shown = activations(store, rows, cases)
    assert [case.record.id for case in shown] == [cases[0].record.id, cases[2].record.id]
    assert [picture.title for picture in shown[0].pictures] == ["image", "ground truth", "SWARD"]
    assert shown[0].pictures[1].note == "polyp"
