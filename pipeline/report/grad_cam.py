"""Grad-CAM overlays for every row of a report (paper Fig. 1): image regions that raise the score of a class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from pipeline.cache.store import Store
from pipeline.report.examples import Case
from pipeline.report.layered_image import Picture
from pipeline.report.student_on_records import StudentOnRecords, probe
from pipeline.results.runs import SavedRun
from sward.contracts import IGNORE, Student
from sward.gradcam import grad_cam

LEVEL = "s16"  # deep enough to respond to objects; all students and the teacher's head have it


def activations(store: Store, rows: Mapping[str, Sequence[SavedRun]], cases: Sequence[Case]) -> list[Case]:
    """The key examples where a class other than 0 occurs, with Grad-CAM maps instead of predictions.

    Shown for rows whose first seed has saved its student.
    """
    probes = {label: probe(runs[0], store) for label, runs in rows.items()}
    if not any(probes.values()):
        return []
    targets = [(case, main_class(store.full_label(case.record))) for case in cases if case.key]
    return [shown(case, store, probes, target) for case, target in targets if target]


def shown(case: Case, store: Store, probes: Mapping[str, StudentOnRecords | None], target: int) -> Case:
    """Replaces the predictions of an example by Grad-CAM maps of class ``target``."""
    image, truth = case.pictures[:2]
    maps = [
        Picture(label, "", heat(image.image, activation(probe, case, target)), row=i)
        for i, (label, probe) in enumerate(probes.items())
        if probe
    ]
    return replace(case, pictures=(image, replace(truth, note=store.classes[target]), *maps))


def main_class(label: np.ndarray) -> int:
    """The class with the most pixels, class 0 left out; 0 if there is no other class."""
    counts = np.bincount(label[(label != IGNORE) & (label > 0)], minlength=2)
    return int(counts.argmax())


def level_of(student: Student) -> str:
    """The level used for Grad-CAM: ``LEVEL``, or the student's last one if it lacks that."""
    return LEVEL if LEVEL in student.channels else list(student.channels)[-1]


def activation(shown_to: StudentOnRecords, case: Case, target: int) -> np.ndarray:
    """Grad-CAM map of class ``target``, (h, w) float32 in [0, 1]."""
    student = shown_to.student
    return grad_cam(student, shown_to.inputs(case.record), target, level_of(student))[0].numpy()


def heat(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Draws a map (h, w) in matplotlib's `inferno` over the image (H, W, 3) in grey; brighter is more."""
    import matplotlib as mpl

    size = (image.shape[1], image.shape[0])
    smooth = np.asarray(Image.fromarray(cam).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    grey = np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, 2)
    colours = 255 * mpl.colormaps["inferno"](smooth[..., 0])[..., :3]
    opacity = 0.25 + 0.55 * smooth
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)
