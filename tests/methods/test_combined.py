"""A combination is its parts, each as if it were alone."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from rivals import maps, terms

from sward.methods import MethodConfig

PARTS = {"hint": {"kind": "fitnet"}, "cwd": {"kind": "cwd", "level": "s32"}, "pdr": {"kind": "sward", "beta": 0}}


def build(values, teacher=None):
    config = TypeAdapter(MethodConfig).validate_python(values)
    return config.build(teacher or {"s16": 7, "s32": 4}, {"s16": 5, "s32": 3}, 3, 3).double()


def test_every_term_and_weight_is_that_of_the_part_alone():
    f_s, f_t = maps()
    whole = build({"kind": "combined", "alpha": 0.5, "parts": PARTS})
    found = terms(whole, f_s, f_t)
    for label, values in PARTS.items():
        alone = build(values)
        for name, term in terms(alone, f_s, f_t).items():
            assert torch.equal(found.pop(f"{label}.{name}"), term)
            assert whole.weights[f"{label}.{name}"] == alone.weights[name]
    assert not found
    assert whole.weights["task"] == 0.5
    assert whole.needs == ("s32",)


def test_the_order_matters_if_it_does_to_one_part():
    assert build({"kind": "combined", "parts": PARTS}).order_invariant
    assert not build({"kind": "combined", "parts": PARTS | {"mgd": {"kind": "mgd"}}}).order_invariant


def test_a_task_weight_within_a_part_is_refused_as_are_no_parts():
    with pytest.raises(ValidationError, match=r"alpha weighs the task once.*remove it from at"):
        build({"kind": "combined", "parts": {"at": {"kind": "at", "alpha": 2.0}}})
    with pytest.raises(ValidationError, match="at least 1"):
        build({"kind": "combined", "parts": {}})


def test_a_part_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"second: .*reads the teacher's logits.*sward fit-head"):
        build({"kind": "combined", "parts": {"first": {"kind": "at"}, "second": {"kind": "kd"}}})


def test_monitors_carry_the_parts_label():
    mwad = {"kind": "sward", "gamma": 0}
    whole = build({"kind": "combined", "parts": {"a": mwad, "b": mwad}}, {"s16": 7, "s32": 4})
    f_s, f_t = maps()
    from sward.contracts import Batch, StudentOutput

    features = {"s16": torch.randn(2, 7, 8, 12).double(), "s32": f_t}
    batch = Batch(f_t.new_zeros(2, 3, 8, 8), torch.zeros(2, 8, 8).long(), features, ["a/0", "b/0"], seed=5)
    student = {"s16": torch.randn(2, 5, 8, 12).double(), "s32": f_s.detach()}
    whole.prepare(batch, {k: (torch.zeros(f.shape[1]), torch.ones(f.shape[1])) for k, f in features.items()})
    whole(StudentOutput(f_s, student, f_s), batch, 0)
    names = whole.monitors()
    assert {name.split("/")[1] for name in names} == {"a.s16", "a.s32", "b.s16", "b.s32"}
