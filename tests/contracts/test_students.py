"""What every student of the table must do. A new entry is tested by being in the union."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from sward.contracts import Student, StudentOutput
from sward.students import StudentConfig, build_student

CONFIGS = TypeAdapter(StudentConfig)
KINDS = [config.model_fields["kind"].default for config in get_args(get_args(StudentConfig)[0])]
REQUIRED = {"smp": {"architecture": "fpn", "encoder": "resnet18"}}  # entries without a default network
SIZE = (64, 96)


def build(kind: str, seed: int = 0) -> Student:
    config = CONFIGS.validate_python({"kind": kind, **REQUIRED.get(kind, {})})
    return build_student(config, num_classes=3, seed=seed)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(count))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def student(kind: str) -> Student:
    return build(kind)


def test_features_are_those_declared_shallow_to_deep(student: Student) -> None:
    output = student(images())
    assert isinstance(output, StudentOutput)
    assert list(output.features) == list(student.channels) == list(student.strides)
    assert list(student.strides.values()) == sorted(student.strides.values())
    for level, feature in output.features.items():
        stride = student.strides[level]
        expected = (2, student.channels[level], SIZE[0] // stride, SIZE[1] // stride)
        assert tuple(feature.shape) == expected, level


def test_a_level_is_named_by_its_nominal_stride(student: Student) -> None:
    nominal = [int(level.removeprefix("s")) for level in student.channels]
    assert nominal == sorted(set(nominal))
    assert all(student.strides[f"s{stride}"] <= stride for stride in nominal)


def test_the_penultimate_features_feed_the_classifier(student: Student) -> None:
    output = student.eval()(images())
    assert output.logits.shape[:2] == (2, student.num_classes) == (2, 3)
    assert output.penultimate.shape[1] == student.classifier.in_channels
    torch.testing.assert_close(student.classifier(output.penultimate), output.logits)


def unreached(student: Student) -> set[str]:
    """Parameters without gradient; in eval mode, where batch norm doesn't cancel the biases before it."""
    logits = student.eval()(images()).logits
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    return {name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().any()}


def test_gradients_reach_every_parameter(kind: str) -> None:
    # two seeds, because all four rectifiers of a squeeze-and-excitation may be shut at one
    assert unreached(build(kind, seed=0)) & unreached(build(kind, seed=1)) == set()


def test_the_first_weights_are_a_function_of_the_seed(kind: str) -> None:
    before = torch.get_rng_state()
    first, same, other = (build(kind, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_evaluation_is_deterministic_and_takes_single_images(student: Student) -> None:
    student.eval()
    batch = images(2)
    with torch.inference_mode():
        first, second, single = student(batch).logits, student(batch).logits, student(batch[1:]).logits
    assert torch.equal(first, second)
    torch.testing.assert_close(single, first[1:], rtol=1e-4, atol=1e-5)  # other kernels for another batch


def test_no_two_entries_of_the_state_share_memory(student: Student) -> None:
    pointers = [tensor.data_ptr() for tensor in student.state_dict().values()]
    assert len(set(pointers)) == len(pointers)  # or safetensors would refuse to write it


def test_a_size_the_strides_cannot_divide_is_refused_with_the_size_to_pad_to(student: Student) -> None:
    student.eval()
    with pytest.raises(ValueError, match=r"got images of 67x96 .* pad or resize them to (72|80|96)x96"):
        student(torch.zeros(1, 3, 67, 96))
    with pytest.raises(ValueError, match="convert to three channels"):
        student(torch.zeros(1, 1, *SIZE))


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="'unext', 'resunetpp', 'deeplabv3', 'deeplabv3plus', 'smp'"):
        CONFIGS.validate_python({"kind": "unet"})
