"""`deterministic: true`: kernels that add in a fixed order, the same losses, and an identity of its own."""

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import empty, fake_cuda
from tiny import tiny_cache, tiny_train

from pipeline.training.device.determinism import repeatable
from sward.contracts import IGNORE
from sward.task import at_labels_size, pixel_cross_entropy


@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0)])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_repeatable_cross_entropy_equals_torchs_with_its_gradient(weights, reduction):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 7), generator=generator)
    labels[:, 0] = IGNORE
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    logits = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction=reduction)
    with repeatable(True):
        found = pixel_cross_entropy(logits, labels, weight, reduction)
    torch.testing.assert_close(found, expected)
    (g,), (h,) = torch.autograd.grad(found.sum(), logits), torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(g, h)


def test_the_cross_entropy_of_a_run_uses_no_cuda_kernel_that_adds_in_any_order():
    """Upsampling and the loss are the two that a plain run has; without the option both are there."""
    found = {}
    for wanted in (False, True):
        with fake_cuda() as trace, repeatable(wanted):
            pixel_cross_entropy(
                at_labels_size(empty(2, 2, 8, 8), empty(2, 32, 32)), empty(2, 32, 32, dtype=torch.int64)
            )
        found[wanted] = trace.unrepeatable()
    assert [name.split(".")[1] for name in found[False]] == ["nll_loss2d_forward", "upsample_bilinear2d"]
    assert found[True] == []


def test_the_setting_ends_with_the_run():
    with repeatable(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_only_a_repeatable_run_gets_another_identity(tmp_path):
    config = tiny_train(tmp_path, tiny_cache(tmp_path))
    assert config.model_copy(update={"deterministic": False}).identity() == config.identity()
    assert config.model_copy(update={"deterministic": True}).identity() != config.identity()
