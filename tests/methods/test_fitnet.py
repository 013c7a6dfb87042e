"""FitNet: the mean square by loops, and the base that all tapped methods share."""

import pytest
import torch
import torch.nn.functional as F
from rivals import STUDENT, assert_equals_loops, build, maps, projected, randn, terms

from sward.contracts import Batch
from sward.methods.fitnet import FitNetConfig


def test_the_hint_is_the_mean_square_after_the_aligner():
    method = build(FitNetConfig())

    def loops(f_s, f_t):
        y = projected(method.align, f_s)
        pairs = zip(y.flatten(), f_t.flatten(), strict=True)
        return sum((a - b) ** 2 for a, b in pairs) / f_t.numel()

    assert_equals_loops(method, "hint", loops, *maps(2, 3))


def test_dense_mse_is_the_hint_with_a_bias_and_weight_one_and_what_is_stated_wins():
    method = build(FitNetConfig(preset="dense_mse"))
    assert method.weights == {"task": 1.0, "hint": 1.0}

    def loops(f_s, f_t):
        y = projected(method.align, f_s)
        return sum((a - b) ** 2 for a, b in zip(y.flatten(), f_t.flatten(), strict=True)) / f_t.numel()

    assert method.state_dict().keys() == {"align.weight", "align.bias"}
    assert_equals_loops(method, "hint", loops, *maps(2, 3))
    assert build(FitNetConfig(preset="dense_mse", weight=3)).weights["hint"] == 3
    assert build(FitNetConfig(preset="dense_mse", bias=False)).align.bias is None


def test_what_was_added_later_stands_in_a_saved_configuration_only_where_it_is_used():
    assert FitNetConfig().model_dump() == {"alpha": 1.0, "level": "deepest", "kind": "fitnet", "weight": 10.0}
    dense = FitNetConfig(preset="dense_mse")
    assert dense.model_dump()["bias"] is True
    assert FitNetConfig.model_validate_json(dense.model_dump_json()) == dense


def test_an_aligner_that_reproduces_the_teacher_leaves_nothing():
    method = build(FitNetConfig(), teacher=3)
    f_s, _ = maps()
    method.load_state_dict({"align.weight": torch.eye(3).view(3, 3, 1, 1)})
    assert terms(method, f_s, f_s.detach())["hint"] == 0


def test_the_student_is_resized_to_the_teachers_grid_and_the_teacher_is_left_alone():
    method = build(FitNetConfig())
    f_s, f_t = randn(2, 3, 7, 5, seed=8), maps()[1]
    resized = F.interpolate(f_s, f_t.shape[-2:], mode="bilinear", align_corners=False)
    assert torch.equal(terms(method, f_s, f_t)["hint"], terms(method, resized, f_t)["hint"])


def test_a_student_without_the_level_gives_its_deepest():
    method = FitNetConfig(level="s32").build({"s32": 4}, {"s2": 2, "s8": 3}, 2, 6)
    assert (method.teacher_level, method.student_level) == ("s32", "s8")
    assert method.needs == ("s32",)
    assert FitNetConfig(level="s8").build({"s8": 4}, {"s8": 3, "s16": 2}, 2, 6).student_level == "s8"


def test_a_level_the_store_lacks_is_named_with_the_ones_it_has():
    with pytest.raises(ValueError, match=r"reads s32; the store has \['s8', 's16'\].*sward extract"):
        FitNetConfig(level="s32").build({"s8": 4, "s16": 5}, {"s8": 3}, 2, 6)
    with pytest.raises(ValueError, match="declares no levels"):
        FitNetConfig().build({"s32": 4}, {}, 2, 6)


def test_adapters_start_from_the_runs_seed():
    def start(seed):
        method = build(FitNetConfig())
        method.prepare(Batch(torch.zeros(1), torch.zeros(1), {}, [], seed=seed), {})
        return method.align.weight

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert start(1).abs().max() <= STUDENT**-0.5
