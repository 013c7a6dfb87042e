"""The task loss: its terms are those of segmentation-models-pytorch and torch, and ignore what is ignored."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from sward.compat import import_torchvision_safely
from sward.contracts import IGNORE
from sward.task import TaskConfig, at_labels_size, cross_entropy, dice, focal, task_loss

K = 3


def example(ignored=True):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, K, 12, 14, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, K, (2, 12, 14), generator=generator)
    if ignored:
        labels[0, :5] = IGNORE
    return logits, labels


def test_dice_is_that_of_segmentation_models_pytorch():
    import_torchvision_safely()
    from segmentation_models_pytorch import losses

    logits, labels = example()
    wanted = losses.DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE)(logits, labels)
    torch.testing.assert_close(dice(logits, labels), wanted, rtol=1e-9, atol=1e-12)


def test_dice_by_loops():
    logits, labels = example()
    p, total = logits.detach().softmax(1), 0.0
    for k in range(K):
        hits = mass = 0.0
        for b, y, x in (labels != IGNORE).nonzero().tolist():
            truth = float(labels[b, y, x] == k)
            hits += float(p[b, k, y, x]) * truth
            mass += float(p[b, k, y, x]) + truth
        total += 1 - 2 * hits / mass
    assert dice(logits, labels).item() == pytest.approx(total / K, rel=1e-10)


def test_a_class_that_no_label_has_counts_nothing_in_dice():
    logits, labels = example(ignored=False)
    labels[labels == 2] = 0
    two = 1 - dice(logits, labels) * K / 2
    assert 0 < two.item() < 1


def test_focal_without_exponent_is_binary_cross_entropy_and_with_one_is_below_it():
    logits, labels = example(ignored=False)
    truth = F.one_hot(labels, K).movedim(-1, 1).double()
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1).mean()
    torch.testing.assert_close(focal(logits, labels, 0.0), bce)
    assert 0 < focal(logits, labels, 2.0) < bce


def test_focal_by_loops():
    logits, labels = example()
    total, count = 0.0, 0
    for b, y, x in (labels != IGNORE).nonzero().tolist():
        count += 1
        for k in range(K):
            p = torch.sigmoid(logits[b, k, y, x]).item()
            right = p if int(labels[b, y, x]) == k else 1 - p
            total += -((1 - right) ** 2) * float(torch.log(torch.tensor(right, dtype=torch.float64)))
    assert focal(logits, labels, 2.0).item() == pytest.approx(total / count, rel=1e-9)


def test_class_weights_are_torchs():
    logits, labels = example()
    weights = (0.2, 1.0, 3.0)
    wanted = F.cross_entropy(logits, labels, torch.tensor(weights, dtype=torch.float64), ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(logits, labels, weights), wanted)
    with pytest.raises(ValueError, match=r"has 2 weights.*3 classes"):
        cross_entropy(logits, labels, (1.0, 1.0))


def test_the_weighted_sum_of_the_terms():
    logits, labels = example()
    config = TaskConfig(ce=0.5, dice=2, focal=3, gamma=1.5)
    parts = 0.5 * cross_entropy(logits, labels) + 2 * dice(logits, labels) + 3 * focal(logits, labels, 1.5)
    torch.testing.assert_close(task_loss(config, logits, labels), parts)
    assert torch.equal(task_loss(TaskConfig(), logits, labels), cross_entropy(logits, labels))


@pytest.mark.parametrize("config", [TaskConfig(), TaskConfig(dice=1), TaskConfig(focal=1)])
def test_ignored_pixels_get_no_gradient_and_change_nothing(config):
    logits, labels = example()
    task_loss(config, logits, labels).backward()
    assert not logits.grad[0, :, :5].any()
    other = logits.detach().clone()
    other[0, :, :5] += 7
    torch.testing.assert_close(task_loss(config, other, labels), task_loss(config, logits.detach(), labels))


@pytest.mark.parametrize("config", [TaskConfig(), TaskConfig(dice=1, focal=1)])
def test_where_every_pixel_is_ignored_it_is_zero(config):
    logits, labels = example()
    assert task_loss(config, logits, torch.full_like(labels, IGNORE)).item() == 0


def test_smaller_logits_are_enlarged_in_float32_or_wider():
    logits = torch.randn(1, K, 4, 4, dtype=torch.bfloat16)
    assert at_labels_size(logits, torch.zeros(1, 8, 8)).dtype == torch.float32
    assert at_labels_size(logits, torch.zeros(1, 8, 8)).shape == (1, K, 8, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"ce": 0}, "are all 0"), ({"class_weights": [0.0, 0.0]}, "not all of them 0"), ({"dice": -1}, "greater than")],
)
def test_weights_that_teach_nothing_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        TaskConfig.model_validate(values)
