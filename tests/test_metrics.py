"""Metrics against torchmetrics, scikit-image and plain loops; the empty and ignored cases by hand."""

import math

import numpy as np
import pytest
import torch

from sward.compat import import_torchvision_safely
from sward.metrics import (
    CalibrationBins,
    SegmentationMetrics,
    boundary,
    boundary_distances,
    boundary_f,
    class_accuracy,
    class_iou,
    confusion_matrix,
    dice_iou,
    hd95,
)

NOTHING = np.zeros((20, 24), dtype=bool)


def draw(seed: int, num_classes: int, ignored: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """A label of blocks with ignored pixels, and a prediction that is right about half of the time."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(num_classes, (5, 6), generator=generator)
    label = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)
    noise = torch.randint(num_classes, label.shape, generator=generator)
    prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.5, noise, label)
    return prediction, label.masked_fill(torch.rand(label.shape, generator=generator) < ignored, 255)


def points_by_loops(mask: np.ndarray, ignored: np.ndarray) -> list[tuple[int, int]]:
    """Counted mask pixels with a 4-neighbour outside the image, or counted and outside the mask."""
    height, width = mask.shape
    found = []
    for y, x in np.argwhere(mask & ~ignored):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            outside = not (0 <= v < height and 0 <= u < width)
            if outside or not (mask[v, u] or ignored[v, u]):
                found.append((y, x))
                break
    return found


def nearest(here: list[tuple[int, int]], there: list[tuple[int, int]]) -> list[float]:
    return [min(math.dist(p, q) for q in there) for p in here]


@pytest.mark.parametrize("seed", range(3))
def test_dice_and_iou_are_those_of_torchmetrics(seed: int) -> None:
    import_torchvision_safely()
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    prediction, label = draw(seed, 2)
    dice, iou = dice_iou(confusion_matrix(prediction, label, 2))
    assert dice == pytest.approx(float(binary_f1_score(prediction, label, ignore_index=255)), abs=1e-6)
    assert iou == pytest.approx(float(binary_jaccard_index(prediction, label, ignore_index=255)), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_confusion_matrix_counts_pixel_by_pixel(seed: int) -> None:
    prediction, label = draw(seed, 19)
    expected = torch.zeros(19, 19, dtype=torch.int64)
    for found, truth in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if truth != 255:
            expected[truth, found] += 1
    assert torch.equal(confusion_matrix(prediction, label, 19), expected)


def test_class_iou_and_accuracy_are_those_of_torchmetrics_where_defined() -> None:
    import_torchvision_safely()
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

    prediction, label = draw(0, 7)
    label[label == 3] = 255
    prediction[prediction == 3] = 4  # class 3 is nowhere
    kwargs = {"num_classes": 7, "average": "none", "ignore_index": 255}
    others = torch.arange(7) != 3
    confusion = confusion_matrix(prediction, label, 7)
    iou, accuracy = class_iou(confusion), class_accuracy(confusion)
    assert iou[3].isnan()
    assert accuracy[3].isnan()
    expected = multiclass_jaccard_index(prediction, label, **kwargs).double()[others]
    torch.testing.assert_close(iou[others], expected, rtol=0, atol=1e-6)
    expected = multiclass_accuracy(prediction, label, **kwargs).double()[others]
    torch.testing.assert_close(accuracy[others], expected, rtol=0, atol=1e-6)


def test_miou_is_over_classes_in_the_union_and_macc_over_those_labelled() -> None:
    metrics = SegmentationMetrics(num_classes=4)
    metrics.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]), "a")
    result = metrics.compute()
    assert result["miou"] == pytest.approx((1 + 1 / 2 + 0) / 3)  # class 2 is only predicted, 3 is nowhere
    assert result["macc"] == pytest.approx((1 + 1 / 2) / 2)


def test_the_split_is_one_confusion_matrix_not_a_mean_over_images() -> None:
    pairs = [draw(seed, 5) for seed in range(4)]
    metrics = SegmentationMetrics(num_classes=5)
    for i, (prediction, label) in enumerate(pairs):
        metrics.update(prediction, label, str(i))
    whole = SegmentationMetrics(num_classes=5)
    whole.update(torch.cat([p for p, _ in pairs]), torch.cat([t for _, t in pairs]), "all")
    assert metrics.compute() == whole.compute()
    assert set(metrics.compute()) == {"miou", "macc"}


@pytest.mark.parametrize("seed", range(4))
def test_boundary_distances_f_and_hd95_are_those_of_loops(seed: int) -> None:
    prediction, label = draw(seed, 2, ignored=0.05)
    ignored = (label == 255).numpy()
    ours, theirs = boundary_distances((prediction == 1).numpy(), (label == 1).numpy(), ignored)
    here = points_by_loops((prediction == 1).numpy() & ~ignored, ignored)
    there = points_by_loops((label == 1).numpy(), ignored)
    forth, back = nearest(here, there), nearest(there, here)
    np.testing.assert_allclose(ours, forth, atol=1e-6)
    np.testing.assert_allclose(theirs, back, atol=1e-6)
    assert hd95(ours, theirs) == pytest.approx(max(np.quantile(forth, 0.95), np.quantile(back, 0.95)), abs=1e-6)
    precision = sum(d <= 1.5 for d in forth) / len(forth)
    recall = sum(d <= 1.5 for d in back) / len(back)
    assert boundary_f(ours, theirs, 1.5) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)


def test_the_largest_distance_is_the_hausdorff_distance_of_scikit_image() -> None:
    from skimage.metrics import hausdorff_distance

    first, second = NOTHING.copy(), NOTHING.copy()
    first[3:9, 2:7], second[5:17, 8:20] = True, True
    ours, theirs = boundary_distances(first, second, NOTHING)
    expected = hausdorff_distance(boundary(first, NOTHING), boundary(second, NOTHING))
    assert max(ours.max(), theirs.max()) == pytest.approx(expected, abs=1e-6)


def test_a_mask_against_itself_is_perfect_and_a_shift_within_tolerance_too() -> None:
    square = NOTHING.copy()
    square[5:12, 6:14] = True
    same = boundary_distances(square, square, NOTHING)
    assert (boundary_f(*same, 0.0), hd95(*same)) == (1.0, 0.0)
    moved = boundary_distances(np.roll(square, 2, axis=1), square, NOTHING)
    assert hd95(*moved) == 2.0
    assert boundary_f(*moved, 2.0) == 1.0 > boundary_f(*moved, 1.9)


def test_what_is_predicted_under_ignored_pixels_changes_nothing() -> None:
    prediction, label = draw(0, 2, ignored=0.2)
    changed = torch.where(label == 255, 1 - prediction, prediction)
    first, second = SegmentationMetrics(num_classes=2), SegmentationMetrics(num_classes=2)
    assert first.update(prediction, label, "a") == second.update(changed, label, "a")


def test_ignored_pixels_make_no_boundary() -> None:
    mask, ignored = np.ones((7, 7), dtype=bool), np.zeros((7, 7), dtype=bool)
    ignored[3, 3] = True
    expected = np.ones((7, 7), dtype=bool)
    expected[1:-1, 1:-1] = False  # only the image's edge, nothing around the hole
    assert np.array_equal(boundary(mask & ~ignored, ignored), expected)


def test_empty_masks_count_as_perfect_together_and_as_undefined_distance_apart() -> None:
    empty, full = torch.zeros(8, 8, dtype=torch.int64), torch.ones(8, 8, dtype=torch.int64)
    metrics = SegmentationMetrics(num_classes=2)
    both = metrics.update(empty, empty, "both")
    assert (both["dice"], both["iou"], both["boundary_f"], both["hd95"]) == (1.0, 1.0, 1.0, 0.0)
    one = metrics.update(full, empty, "one")
    assert (one["dice"], one["iou"], one["boundary_f"]) == (0.0, 0.0, 0.0)
    assert math.isnan(one["hd95"])
    result = metrics.compute()
    assert (result["dice"], result["hd95"], result["hd95_undefined"]) == (0.5, 0.0, 1.0)


def test_means_are_over_images_whatever_their_size() -> None:
    metrics = SegmentationMetrics(num_classes=2)
    rows = [metrics.update(*(x[: 8 + 4 * i] for x in draw(i, 2)), id=f"image{i}") for i in range(3)]
    result = metrics.compute()
    assert metrics.per_image == rows
    assert [row["id"] for row in rows] == ["image0", "image1", "image2"]
    for name in ("dice", "iou", "boundary_f", "hd95"):
        assert result[name] == pytest.approx(sum(row[name] for row in rows) / 3, abs=1e-12)


def test_arrays_of_any_integer_type_count_alike() -> None:
    prediction, label = draw(0, 2)
    stored = label.numpy().astype(np.uint8)
    stored.flags.writeable = False
    first, second = SegmentationMetrics(num_classes=2), SegmentationMetrics(num_classes=2)
    assert first.update(prediction, label, "a") == second.update(prediction.int().numpy(), stored, "a")


def test_the_default_tolerance_is_three_quarters_of_a_percent_of_the_diagonal() -> None:
    label = torch.zeros(300, 400, dtype=torch.int64)  # diagonal 500, tolerance 3.75 pixels
    label[100:200, 100:200] = 1
    for shift, reached in ((3, True), (4, False)):
        row = SegmentationMetrics(num_classes=2).update(torch.roll(label, shift, 0), label, "a")
        assert (row["boundary_f"] == 1.0) is reached


def test_mistakes_name_the_image_and_the_remedy() -> None:
    metrics = SegmentationMetrics(num_classes=2)
    zeros = torch.zeros(4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="found no image"):
        metrics.compute()
    with pytest.raises(ValueError, match=r"frame7: got a prediction of \(2, 2\) .* resize the logits"):
        metrics.update(zeros[:2, :2], zeros, "frame7")
    with pytest.raises(ValueError, match=r"frame7: label has values 0..3, expected 0..1"):
        metrics.update(zeros, zeros.index_fill(0, torch.tensor([1]), 3), "frame7")
    with pytest.raises(ValueError, match="frame7: every pixel is ignored"):
        metrics.update(zeros, zeros + 255, "frame7")
    with pytest.raises(ValueError, match="at least 2 classes"):
        SegmentationMetrics(num_classes=1)
    assert metrics.per_image == []


@pytest.mark.parametrize("classes", [2, 5])
def test_the_calibration_error_is_torchmetrics_over_all_counted_pixels(classes):
    import_torchvision_safely()
    from torchmetrics.functional.classification import multiclass_calibration_error

    metrics, every = SegmentationMetrics(classes), []
    for seed in range(3):
        _, label = draw(seed, classes)
        logits = torch.randn(classes, *label.shape, generator=torch.Generator().manual_seed(seed))
        every.append((logits, label))
        confidence, prediction = logits.softmax(0).max(0)
        metrics.update(prediction, label, str(seed), confidence)
    probabilities = torch.stack([z.softmax(0) for z, _ in every])
    labels = torch.stack([label for _, label in every])
    wanted = multiclass_calibration_error(probabilities, labels, classes, n_bins=15, norm="l1", ignore_index=255)
    assert metrics.compute()["ece"] == pytest.approx(float(wanted), abs=1e-6)


def test_the_calibration_error_of_parts_is_that_of_the_whole_and_absent_without_confidences():
    confidence, right = torch.rand(1000), torch.rand(1000) > 0.3
    whole, parts = CalibrationBins(), [CalibrationBins(), CalibrationBins()]
    whole.add(confidence, right)
    parts[0].add(confidence[:400], right[:400])
    parts[1].add(confidence[400:], right[400:])
    assert CalibrationBins.merged(parts).error() == pytest.approx(whole.error(), abs=1e-12)
    metrics = SegmentationMetrics(2)
    metrics.update(*draw(0, 2), "frame")
    assert "ece" not in metrics.compute()


def test_a_missed_lesion_counts_the_diagonal_in_the_penalised_hd95():
    metrics, label = SegmentationMetrics(2), torch.zeros(30, 40).long()
    metrics.update(label, label, "nothing there")
    label = label.clone()
    label[5:10, 5:10] = 1
    row = metrics.update(torch.zeros_like(label), label, "missed")
    assert math.isnan(row["hd95"])
    assert row["hd95_penalised"] == 50.0
    assert metrics.compute()["hd95_penalised"] == 25.0
