"""What the parts that people use alone refuse, and how they say it: found, expected, what to do."""

import numpy as np
import pytest
import torch

from sward import MWAD, PDR
from sward.metrics import SegmentationMetrics
from sward.mwad.config import MWADConfig
from sward.mwad.windows import Windows

LABEL = np.array([[0, 1], [1, 255]])


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int16, np.int64])
def test_class_indices_of_any_integer_type_are_counted(kind):
    label = np.array([[0, 1], [1, 0]], kind)
    assert SegmentationMetrics(2).update(label, label, "a")["dice"] == 1


@pytest.mark.parametrize(
    ("prediction", "label"),
    [
        (LABEL.astype(np.float32), LABEL),
        (LABEL, LABEL + 0.6),
        (torch.tensor(LABEL) * 0.9, LABEL),
        (torch.tensor(LABEL), torch.tensor(LABEL, dtype=torch.float16)),
        (LABEL.astype(complex), LABEL),
        (LABEL.astype(str), LABEL),
    ],
    ids=["floats", "a float label", "a tensor of floats", "half floats", "complex", "text"],
)
def test_metrics_never_round_what_is_no_class_index(prediction, label):
    with pytest.raises(ValueError, match="expected class indices of an integer type: take the argmax"):
        SegmentationMetrics(2).update(prediction, label, "a")


def mwad(**changes):
    return MWAD(
        {"s8": 4}, {"s8": 3}, MWADConfig(standardise=False, phi_init="orthogonal", gain=1.0, window=4, **changes)
    )


def features(batch, channels):
    return {"s8": torch.randn(batch, channels, 8, 12, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    ("batches", "offsets", "said"),
    [
        ((2, 1), None, r"batches of different sizes \(teacher s8: 2, student s8: 1\)"),
        ((1, 2), None, "pass features of the same images"),
        ((2, 2), {"s16": (0, 0)}, r"offsets of \['s16'\], expected teacher levels of \['s8'\]"),
        ((2, 2), {"s8": (12, 0)}, r"dx in 0..11 and dy in 0..7"),
        ((2, 2), {"s8": (0, 8)}, r"give offsets modulo the map's size"),
        ((2, 2), {"s8": (-1, 0)}, r"\(dx, dy\) = \(-1, 0\)"),
    ],
    ids=str,
)
def test_mwad_refuses_what_does_not_belong_together(batches, offsets, said):
    with pytest.raises(ValueError, match=said):
        mwad()(features(batches[0], 4), features(batches[1], 3), seed=0, step=0, offsets=offsets)


@pytest.mark.parametrize("offset", [(-1, 0), (0, -3), (-5, -5)])
def test_a_seam_mask_of_negative_offsets_is_refused(offset):
    with pytest.raises(ValueError, match="window offset"):
        Windows(8, 12, 4, *offset).masks(padding=True, seam=True, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="window offset"):
        mwad(seam_mask=True)(features(2, 4), features(2, 3), seed=0, step=0, offsets={"s8": offset})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.full((2, 4, 4), 2), r"found the labels \[2\], expected classes from 0 on, below num_classes \(2\)"),
        (torch.full((2, 4, 4), -1), r"found the labels \[-1\]"),
        (torch.full((2, 16, 16), 7), "correct the labels or num_classes"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "pass the labels of the same images"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), r"expected \(B, h, w\)"),
    ],
    ids=["above", "negative", "on a finer grid", "of other images", "of another shape"],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_pdr_refuses_labels_outside_its_classes(labels, said, normalise):
    from sward.pdr.pdr import PDRConfig

    with pytest.raises(ValueError, match=said):
        PDR(PDRConfig(normalise=normalise), num_classes=2)(torch.randn(2, 3, 4, 4), labels)


def test_pdr_with_any_number_of_classes_refuses_negative_labels():
    with pytest.raises(ValueError, match="expected classes from 0 on"):
        PDR()(torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), -1))
