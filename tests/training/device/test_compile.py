"""A compiled student: faster kernels, the same step, the same names."""

import json

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from tiny import tiny_cache, tiny_train
from torch import nn

from pipeline.cache.extraction.extract import extract
from pipeline.training.config import HeadFit, TrainConfig
from pipeline.training.device.compile import CannotCompile, compile_student, uncompiled
from pipeline.training.distributed.fabric import Fabric
from pipeline.training.loop import train
from sward.contracts import Student, StudentOutput

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's compiler warns of torch's own deprecations


class Small(Student):
    """Compiled in seconds: one level, dropout, a classifier."""

    def __init__(self, classes=2):
        super().__init__()
        self.level = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8))
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        f = F.relu(self.level(images))
        penultimate = F.dropout(f, 0.5, self.training)
        return StudentOutput(self.classifier(penultimate), {"s4": f}, penultimate)


def gradients(student):
    """Outputs' squares differentiated one by one through one graph, as the shares of the terms are measured."""
    torch.manual_seed(1)
    output = student(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    losses = [t.square().mean() for t in (output.logits, output.features["s4"], output.penultimate)]
    found = [torch.autograd.grad(x, student.level[0].weight, retain_graph=True)[0] for x in losses]
    sum(losses).backward()
    return torch.stack(losses).detach(), *found, *(p.grad for p in student.parameters())


@pytest.fixture
def config(tmp_path):
    return tiny_train(tmp_path, tiny_cache(tmp_path))


@pytest.mark.slow
def test_a_compiled_step_has_the_losses_and_the_gradients_of_an_eager_one_and_the_names_stay():
    eager, compiled = Small(), Small()
    compiled.load_state_dict(eager.state_dict())
    compile_student(compiled, CPU)
    for expected, found in zip(gradients(eager), gradients(compiled), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert list(compiled.state_dict()) == list(eager.state_dict())


@pytest.mark.slow
def test_a_compiled_run_of_unext_has_the_losses_of_an_eager_one(config):
    extract(config.cache)
    steps = {"steps": 2, "signal_every": 1, "checkpoint_every": 2, "batch_size": 12}
    compiled, eager = (train(config.model_copy(update=steps | {"compile": yes})) for yes in (True, False))
    states = [torch.load(folder / "last.ckpt", weights_only=True)["student"] for folder in (compiled, eager)]
    assert list(states[0]) == list(states[1])
    lines = [map(json.loads, (folder / "metrics.jsonl").open()) for folder in (compiled, eager)]
    logs = [[line["loss"] for line in found if "loss" in line] for found in lines]
    assert len(logs[0]) == 2
    assert logs[0][0] == pytest.approx(logs[1][0], rel=1e-5)
    assert logs[0][1] == pytest.approx(logs[1][1], rel=2e-2)  # Adam's first step is a gradient's sign: rounding tells


@pytest.mark.slow
def test_the_tenth_student_of_a_process_is_compiled_like_the_first():
    for classes in range(2, 12):  # of one more than the compiler's limit, it would say so
        student = Small(classes)
        compile_student(student, CPU)
        student(torch.randn(2, 3, 32, 32))


def test_compiling_makes_another_run_but_not_another_teachers_head(config):
    compiled = config.model_copy(update={"compile": True, "channels_last": True})
    assert compiled.identity() != config.identity()
    heads = (c.model_copy(update={"head": HeadFit(steps=1)}).head_run() for c in (config, compiled))
    assert len({head.identity() for head in heads}) == 1


def test_several_processes_do_not_compile(config):
    with pytest.raises(ValueError, match="compile: true takes one process"):
        TrainConfig.model_validate(config.model_dump() | {"compile": True, "devices": 2})


def test_without_a_compiler_a_run_says_so_before_it_begins():
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(CannotCompile, match=r"needs a C\+\+ compiler.*leave `compile` out"):
        compile_student(Small(), CPU)


def test_a_compiled_student_is_evaluated_uncompiled_also_in_fabrics_wrapper():
    """At the ninth image size a compiled student would stop at the compiler's limit."""
    student = Small()
    student._compiled_call_impl = student._call_impl  # as `compile` leaves it, without building kernels
    wrapped = Fabric(accelerator="cpu", devices=1).setup(student)
    for module in (student, wrapped):
        with uncompiled(module):
            assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    with uncompiled(Fabric(accelerator="cpu", devices=1).setup(Small())):
        assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.slow
def test_a_compiled_student_in_fabrics_wrapper_is_evaluated_at_twelve_sizes():
    student = Small()
    compile_student(student, CPU)
    wrapped = Fabric(accelerator="cpu", devices=1).setup(student)
    wrapped(torch.randn(2, 3, 32, 32))
    with torch.no_grad(), uncompiled(wrapped.eval()):
        for side in range(32, 80, 4):
            wrapped(torch.randn(1, 3, side, side))
