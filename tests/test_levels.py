"""Level names: one parser, an order from shallow to deep, and the rule for the deepest."""

from fractions import Fraction

import pytest
from pydantic import TypeAdapter, ValidationError

from sward.align import pair_levels
from sward.levels import (
    Level,
    LevelRule,
    TeacherChannels,
    by_teacher,
    cell_of,
    deepest,
    grid_of,
    of_rule,
    own_name,
    place,
    stride,
    teacher_of,
)
from sward.methods import MethodConfig
from sward.methods.base import paired_tensors


def test_a_name_gives_stride_and_block():
    assert [place(name) for name in ("s4", "s14", "s16@12")] == [(4, 0), (14, 0), (16, 12)]
    assert stride("s16@3") == 16
    assert grid_of("s14", (448, 224)) == (32, 16)


@pytest.mark.parametrize("name", ["16", "s", "s0", "s16@", "s16@0", "s16.3", "T:s16", ":s16", "logits", "deepest"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is no level; expected a stride"):
        place(name)
    with pytest.raises(ValidationError):
        TypeAdapter(Level).validate_python(name)


def test_of_several_teachers_a_level_has_its_teachers_name_in_front():
    assert place("vit_small:s16@12") == (16, 12)
    assert [part("tiny:s8") for part in (teacher_of, own_name, stride)] == ["tiny", "s8", 8]
    assert (teacher_of("s8"), own_name("s8"), own_name("logits")) == ("", "s8", "logits")
    assert TypeAdapter(LevelRule).validate_python("tiny:s8") == "tiny:s8"
    with pytest.raises(ValidationError):
        TypeAdapter(Level).validate_python("tiny:s8")  # a store names no teacher


def test_each_teacher_has_its_own_zoom():
    both = TeacherChannels({"a:s16": 3, "a:s32": 4, "b:s16": 5}, {"a": Fraction(4), "b": Fraction(1)})
    assert [cell_of(level, both) for level in both] == [4, 8, 16]
    assert [list(own) for own in by_teacher(both)] == [["a:s16", "a:s32"], ["b:s16"]]
    assert pair_levels(both, ["s4", "s8", "s16", "s32"]) == [("a:s16", "s4"), ("a:s32", "s8"), ("b:s16", "s16")]
    assert paired_tensors("a:s16", both, ["s4", "s16"]) == ("a:s16", "s4")
    assert paired_tensors("b:s16", both, ["s4", "s16"]) == ("b:s16", "s16")


def test_several_teachers_are_each_paired_as_if_alone():
    pyramid, plain = ["s4", "s8", "s16", "s32"], ["s16@3", "s16@6", "s16@9", "s16@12"]
    student = ["s2", "s4", "s8", "s16", "s32"]
    both = [*(f"a:{level}" for level in pyramid), *(f"b:{level}" for level in plain)]
    alone = {"a": pair_levels(pyramid, student), "b": pair_levels(plain, student)}
    expected = [(f"{name}:{t}", s) for name, pairs in alone.items() for t, s in pairs]
    assert pair_levels(both, student) == expected


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
