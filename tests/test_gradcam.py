"""Grad-CAM against its equations in loops, and on every student of the table."""

from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from sward.contracts import Student, StudentOutput
from sward.gradcam import class_score, grad_cam
from sward.students import StudentConfig, build_student

KINDS = [config.model_fields["kind"].default for config in get_args(get_args(StudentConfig)[0])]
REQUIRED = {"smp": {"architecture": "fpn", "encoder": "resnet18"}}  # entries without a default network


class Linear(Student):
    """Features are the image's channels, the classifier their weighted sum: gradients are known on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides, self.num_classes = {"s4": 3}, {"s4": 1}, 2
        self.classifier = nn.Conv2d(3, 2, 1, bias=False)

    def forward(self, images: torch.Tensor) -> StudentOutput:
        f = images * 1.0
        f.requires_grad_()
        return StudentOutput(self.classifier(f), {"s4": f}, f)


def test_the_map_is_the_papers_equations_in_loops() -> None:
    torch.manual_seed(0)
    student, images = Linear(), torch.randn(2, 3, 4, 5)
    found = grad_cam(student, images, 1, "s4").numpy()
    weights = student.classifier.weight.detach()[:, :, 0, 0].numpy()
    for b in range(2):
        x = images[b].numpy()
        logits = np.einsum("kc,chw->khw", weights, x)
        predicted = logits.argmax(0) == 1
        counted = predicted if predicted.any() else np.ones_like(predicted)
        expected = np.zeros((4, 5))
        for c in range(3):
            alpha = sum(weights[1, c] for i in range(4) for j in range(5) if counted[i, j]) / 20
            expected += alpha * x[c]
        expected = np.maximum(expected, 0)
        np.testing.assert_allclose(found[b], expected / expected.max(), atol=1e-5)


def test_where_nothing_is_predicted_as_the_class_every_pixel_counts() -> None:
    z = torch.zeros(2, 2, 2, 2)
    z[:, 0] = 1.0
    z[0, 1, 0, 0] = 3.0
    assert class_score(z, 1).item() == 3.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_student_has_a_map_at_every_level_between_0_and_1(kind: str) -> None:
    config = TypeAdapter(StudentConfig).validate_python({"kind": kind, **REQUIRED.get(kind, {})})
    student = build_student(config, num_classes=3, seed=0).eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for level in student.channels:
        cam = grad_cam(student, images, 1, level)
        assert cam.shape[1] == 64 // student.strides[level]
        assert 0 <= cam.min() <= cam.max() <= 1
        assert not cam.requires_grad
