"""The teacher's own row: a head that reads cached features as a student reads images."""

import pytest
import torch
import torch.nn.functional as F

from sward.contracts import Student
from sward.teachers.head import TeacherHeadConfig

CHANNELS = {"s4": 8, "s8": 16, "s16": 32, "s32": 64}


@pytest.fixture
def head():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TeacherHeadConfig(width=8).build(CHANNELS, num_classes=3)


def features(height=64, width=96, batch=2):
    generator = torch.Generator().manual_seed(1)
    return {
        level: torch.randn(batch, c, height // int(level[1:]), width // int(level[1:]), generator=generator)
        for level, c in CHANNELS.items()
    }


def test_it_keeps_the_contract_of_students_but_reads_features(head):
    output = head(features())
    assert isinstance(head, Student)
    assert head.reads == "features"
    assert output.logits.shape == (2, 3, 16, 24)  # stride 4
    assert {level: f.shape[1] for level, f in output.features.items()} == head.channels
    assert output.features["s16"].shape[-2:] == (4, 6)
    assert torch.equal(output.logits, head.classifier(output.penultimate))


def test_every_level_and_every_parameter_takes_part(head):
    given = {level: f.requires_grad_() for level, f in features().items()}
    loss = F.cross_entropy(
        head(given).logits, torch.randint(3, (2, 16, 24), generator=torch.Generator().manual_seed(2))
    )
    loss.backward()
    assert all(f.grad.abs().sum() > 0 for f in given.values())
    assert all(p.grad is not None for p in head.parameters())


def test_the_dilations_are_those_of_the_configuration():
    head = TeacherHeadConfig(width=8, rates=(1, 3)).build(CHANNELS, num_classes=2)
    assert [branch[0].dilation for branch in head.pyramid] == [(1, 1), (1, 1), (3, 3)]
    assert head(features(32, 32)).logits.shape == (2, 2, 8, 8)
