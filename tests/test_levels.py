"""Level names: one parser, an order from shallow to deep, and the rule for the deepest."""

import pytest
from pydantic import TypeAdapter, ValidationError

from sward.align import pair_levels
from sward.levels import Level, LevelRule, deepest, grid_of, of_rule, place, stride
from sward.methods import MethodConfig
from sward.methods.base import paired_tensors


def test_a_name_gives_stride_and_block():
    assert [place(name) for name in ("s4", "s14", "s16@12")] == [(4, 0), (14, 0), (16, 12)]
    assert stride("s16@3") == 16
    assert grid_of("s14", (448, 224)) == (32, 16)


@pytest.mark.parametrize("name", ["16", "s", "s0", "s16@", "s16@0", "s16.3", "t:s16", "logits", "deepest"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is no level; expected a stride"):
        place(name)
    with pytest.raises(ValidationError):
        TypeAdapter(Level).validate_python(name)


def test_levels_sort_from_shallow_to_deep_by_stride_then_block():
    assert sorted(["s32", "s16@12", "s4", "s16@3"], key=place) == ["s4", "s16@3", "s16@12", "s32"]
    assert deepest(["s16@12", "s16@3"]) == "s16@12"


def test_deepest_is_a_rule_and_every_other_name_itself():
    assert TypeAdapter(LevelRule).validate_python("deepest") == "deepest"
    assert of_rule("deepest", ["s4", "s16"]) == "s16"
    assert of_rule("s4", ["s4", "s16"]) == "s4"


def test_a_method_without_a_level_reads_the_deepest_of_any_teacher():
    config = TypeAdapter(MethodConfig).validate_python({"kind": "fitnet"})
    assert config.level == "deepest"
    built = config.build({"s16@6": 8, "s16@12": 8, "logits": 2}, {"s16": 4, "s32": 4}, 2, 4)
    assert (built.teacher_level, built.student_level) == ("s16@12", "s16")
    assert config.for_levels(["s4", "s8", "s16", "s32"]).level == "s32"


def test_parts_of_a_combination_and_stages_take_the_rule_too():
    parts = {"a": {"kind": "fitnet"}, "b": {"kind": "freekd"}, "c": {"kind": "cwd", "level": "s8"}}
    config = TypeAdapter(MethodConfig).validate_python({"kind": "combined", "parts": parts}).for_levels(["s8", "s14"])
    assert config.parts["a"].level == "s14"
    assert config.parts["b"].levels == ("s14",)
    assert config.parts["c"].level == "s8"


def test_a_map_is_paired_with_the_students_level_of_its_stride():
    assert paired_tensors("s16@3", ["s16@3"], ["s8", "s16", "s32", "logits"]) == ("s16@3", "s16")
    assert paired_tensors("s14", ["s14"], ["s8", "s16", "s32"]) == ("s14", "s32")
    assert pair_levels(["s16@11"], ["s4", "s8", "s16", "s32"]) == [("s16@11", "s16")]


def test_several_maps_of_one_stride_are_paired_by_order():
    teacher = ["s16@3", "s16@6", "s16@9", "s16@12"]
    assert pair_levels(teacher, ["s4", "s8", "s16", "s32"]) == list(
        zip(teacher, ["s4", "s8", "s16", "s32"], strict=True)
    )
    assert pair_levels(teacher[2:], ["s4", "s8", "s16", "s32"]) == [("s16@9", "s16"), ("s16@12", "s32")]
