"""A file that differs from torch on noise by what float32 itself does there is published; any other is refused."""

import copy

import pytest
import torch
from torch import nn

from pipeline.export.check import ROUNDING, ExportError, check, own_rounding
from pipeline.export.graph import Graph
from sward.contracts import Student, StudentOutput


class Cancelling(Student):
    """Logits of at most some units that are left of sums of thousands, so that float32 keeps few of their digits."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.grow = nn.Conv2d(3, 64, 1)
        self.classifier = nn.Conv2d(64, 2, 1)
        with torch.no_grad():
            self.grow.weight.normal_(0, 3000, generator=generator)
            self.classifier.weight.normal_(0, 1, generator=generator)
            rows = torch.linalg.qr(self.grow.weight.flatten(1).double())[0]  # (64, 3): what the sums are made of
            weight = self.classifier.weight.flatten(1).double()
            self.classifier.weight.copy_((weight - weight @ rows @ rows.T)[..., None, None])

    def forward(self, images):
        return StudentOutput(self.classifier(self.grow(images)), {}, images)


@pytest.fixture
def student():
    return Cancelling().eval()


GRAPH = Graph(None, (32, 32), 0, [])


def exact(student):
    wide = copy.deepcopy(student).double()
    return lambda images: wide(images.double()).logits.float()


@torch.no_grad()
def test_a_file_as_exact_as_torch_is_published_and_torchs_own_rounding_is_stated(student):
    found = check(student, exact(student), GRAPH, "student.onnx", [])
    assert found.difference > 1e-4 * found.largest
    assert 0.9 * found.difference < found.rounding < 10 * found.difference  # the largest of inputs beside each other
    assert "torch itself" in found.line()
    assert check(student, lambda x: student(x).logits, GRAPH, "student.onnx", []).rounding is None


@torch.no_grad()
def test_a_file_that_differs_by_more_is_refused(student):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    more = 2 * (ROUNDING + 1) * own_rounding(student, x)
    with pytest.raises(ExportError, match="differs from torch"):
        check(student, lambda x: exact(student)(x) + more, GRAPH, "student.onnx", [])


@torch.no_grad()
def test_on_real_images_nothing_excuses_a_difference(student):
    real = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ExportError, match="differs from torch"):
        check(student, exact(student), GRAPH, "student.onnx", [real])
