"""Channels last: another order in memory, the same student."""

import pytest
import torch
from tiny import tiny_cache, tiny_train

from pipeline.training.setup import set_memory_format
from sward.contracts import Batch
from sward.methods.plain import PlainConfig
from sward.objective import Objective
from sward.students import DeepLabV3Config, UNeXtConfig, build_student


def loss_and_gradients(student, dtype):
    """Of one step of cross-entropy, with dropout drawn from a fixed state."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator, dtype=dtype)
    batch = Batch(images, torch.randint(2, (2, 64, 64), generator=generator), {}, ["a/0", "b/0"])
    objective = Objective(PlainConfig().build({}, student.channels, 2, student.classifier.in_channels))
    torch.manual_seed(1)
    loss = objective(student.train()(images), batch, 0).total
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in student.named_parameters()}


# DeepLabV3 in float64: it normalises a channel over the two images' one value each, which magnifies any rounding; and
# without dropout, whose mask is drawn in the order of memory
@pytest.mark.parametrize(
    ("network", "dtype", "tolerance"),
    [(UNeXtConfig(), torch.float32, 1e-5), (DeepLabV3Config(dropout=0), torch.float64, 1e-9)],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_step_has_the_loss_and_the_gradients_that_it_has_in_the_usual_order(network, dtype, tolerance):
    usual, arranged = (build_student(network, 2, 0).to(dtype) for _ in range(2))
    arranged.to(memory_format=torch.channels_last)
    with torch.no_grad():
        levels = arranged.eval()(torch.randn(2, 3, 64, 64, dtype=dtype)).features.values()
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in levels)
    expected, found = loss_and_gradients(usual, dtype), loss_and_gradients(arranged, dtype)
    assert found.keys() == expected.keys()
    norm = float(torch.stack([g.norm() for g in expected.values()]).norm())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * norm, msg=name)


@pytest.fixture
def config(tmp_path):
    return tiny_train(tmp_path, tiny_cache(tmp_path))


@pytest.mark.parametrize("asked", [{"channels_last": True}, {"precision": "bf16-mixed"}, {"precision": "16-mixed"}])
def test_a_student_has_the_order_that_its_run_asks_for(config, asked):
    students = [build_student(UNeXtConfig(), 2, 0).eval() for _ in range(2)]
    for student, changes in zip(students, ({}, asked), strict=True):
        set_memory_format(student, config.model_copy(update=changes))
    with torch.no_grad():
        usual, arranged = (s(torch.randn(2, 3, 64, 64)).features.values() for s in students)
    assert all(f.is_contiguous() for f in usual)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in arranged)


def test_another_order_makes_another_run(config):
    bf16 = {"precision": "bf16-mixed"}
    changed = [config.model_copy(update=u).identity() for u in ({}, {"channels_last": True}, bf16)]
    assert len(set(changed)) == 3
    assert config.model_copy(update=bf16 | {"channels_last": True}).identity() == changed[2]
