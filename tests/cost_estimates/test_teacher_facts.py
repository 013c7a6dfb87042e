"""The table of teachers: its counts are taken again, its licences are timm's, and `sward plan` prints the own row."""

import pytest
from tiny import tiny_cache

from pipeline.cost_estimates.estimate import estimate_costs
from pipeline.cost_estimates.estimate_text import describe
from pipeline.cost_estimates.flops import count_flops
from pipeline.cost_estimates.teacher_facts import HEAD, aligned, gated, licence
from pipeline.files import read_json
from pipeline.maintenance.teachers_page import COUNTED, LISTED, counted
from sward.teachers.timm_backbone import TimmConfig

QUICK = ("tiny", "resnet50.a1_in1k")


def name_of(values):
    return values.get("model") or values["architecture"]


@pytest.mark.parametrize(
    "row",
    [pytest.param(v, marks=[] if name_of(v) in QUICK else pytest.mark.slow, id=name_of(v)) for v in LISTED],
)
def test_every_row_of_the_page_is_counted_again(row):
    assert counted(row).cells() == read_json(COUNTED)["rows"][LISTED.index(row)]


def test_an_estimate_has_the_teachers_row_beside_its_table_head(tmp_path):
    made = estimate_costs(tiny_cache(tmp_path))
    facts = made.teacher
    assert facts.flops == count_flops("pocket", (64, 64))
    assert facts.bytes == 2 * sum(c * (64 // s) ** 2 for c, s in zip((32, 64, 128, 256), (4, 8, 16, 32), strict=True))
    assert (facts.licence, facts.gated) == ("this project's", "no")
    lines = describe(made)
    assert lines[lines.index(aligned([HEAD, facts.cells()])[0]) + 1].startswith("Hiera pocket")


def test_licence_and_gate_follow_the_tag():
    said = {}
    for tag in ("fb_in1k", "dinov3_lvd1689m"):
        config = TimmConfig(model=f"convnext_tiny.{tag}", weights="w", levels=["s4"])
        said[tag] = (licence(config), gated(config.model))
    assert said == {"fb_in1k": ("apache-2.0", "not known"), "dinov3_lvd1689m": ("dinov3-license", "Meta's files")}
