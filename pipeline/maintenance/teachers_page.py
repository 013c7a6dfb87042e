"""Writes the page of teachers: licence, gating, levels, bytes and FLOPs of a view, normalisation; needs no network.

python -m pipeline.maintenance.teachers_page     # counts all again on the meta device, then writes the page

The counts are kept in results/benchmarks/teachers.json, from which `reference_pages` writes the page again. What real
weights gave beside a reference, tests/benchmarks/agreement.py measured into results/benchmarks/agreement.json.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from pipeline.cost_estimates.teacher_facts import HEAD, TeacherFacts, teacher_facts
from pipeline.files import read_json, write_atomic, write_json
from sward.levels import place
from sward.teachers import TeacherConfig
from sward.teachers.hiera import HieraTeacher, make_trunk
from sward.teachers.timm_backbone import TimmConfig, TimmTeacher
from sward.teachers.timm_models import change_strides, index_of, is_plain, make_backbone, maps_of

ROOT = Path(__file__).resolve().parents[2]
COUNTED, PAGE = ROOT / "results/benchmarks/teachers.json", "docs/reference/teachers.md"
AGREED = ROOT / "results/benchmarks/agreement.json"
SIZE, PATCH_14 = (512, 512), (448, 448)
PYRAMID, QUARTERS = ["s4", "s8", "s16", "s32"], [3, 6, 9, 12]
MOBILE_SAM = {"levels": ["s4", "s8", "s16@3", "s16@4"], "strides": {"stages.3.downsample.conv2.conv": 1}}
DEEP = {"levels": [f"s16@{block}" for block in (6, 12, 18, 24)]}
LISTED: list[dict[str, Any]] = [
    {"architecture": "tiny"},
    {"architecture": "small"},
    {"architecture": "base_plus"},
    {"architecture": "large"},
    {"model": "tiny_vit_5m_224.dist_in22k", **MOBILE_SAM},
    {"model": "vit_small_patch16_dinov3.lvd1689m"},
    {"model": "vit_base_patch16_dinov3.lvd1689m"},
    {"model": "vit_large_patch16_dinov3.lvd1689m", **DEEP},
    {"model": "convnext_tiny.dinov3_lvd1689m", "levels": PYRAMID},
    {"model": "convnext_base.dinov3_lvd1689m", "levels": PYRAMID},
    {"model": "vit_small_patch14_dinov2.lvd142m"},
    {"model": "vit_base_patch14_reg4_dinov2.lvd142m"},
    {"model": "vit_pe_spatial_base_patch16_512.fb"},
    {"model": "samvit_base_patch16.sa1b"},
    {"model": "vit_base_patch16_siglip_512.v2_webli"},
    {"model": "swin_tiny_patch4_window7_224.ms_in1k", "levels": PYRAMID},
    {"model": "resnet50.a1_in1k", "levels": PYRAMID},
]
INTRO = """# Teachers

Some of the backbones that a cache config may name. Any other of timm is one too, and `sward plan` prints this row for
yours: [Bring a teacher](../how-to/teacher.md).
"""
NOTES = """
- The licence is the one that timm records for the tag, for SAM 2 that of its repository. MedSAM2 is Hiera tiny with
  weights and terms of its own. `tiny_vit_5m_224` stands here with the stride and levels of MobileSAM's encoder
  (Apache-2.0).
- Gated: whether the publisher gives the weights to those alone who were let in, as Meta does with DINOv3. timm's copies
  were announced without a gate, under the same licence (facebookresearch/dinov3#145). timm has no field for it, so
  other rows say that it is not known: look before you plan.
- MB: features of one view in half precision. GFLOP: matrix products, attention and convolutions, a multiply-add as two.
- Mean and std are those of RGB in [0, 1]; they follow the tag.
"""

AGREEMENT = """
## Real weights beside a reference

{frames} frames of {data} at {height}×{width}, features stored in float32. Largest absolute difference of a feature from
the reference, by level, beside the level's largest feature. `tests/benchmarks/agreement.py` measures it again.

| teacher | digest of its tensors | reference | difference (largest feature) |
| --- | --- | --- | --- |
"""


def weightless(values: dict[str, Any]) -> tuple[Any, Any]:
    """Configuration and network of a row; a timm network has shapes and no memory."""
    if "architecture" in values:
        hiera = TypeAdapter(TeacherConfig).validate_python({"weights": "path", **values})
        return hiera, HieraTeacher(make_trunk(hiera.architecture, "timm"))
    patch = 14 if "patch14" in values["model"] else 16
    levels = [f"s{patch}@{block}" for block in QUARTERS]
    config = TimmConfig.model_validate({"kind": "timm", "weights": "path", "levels": levels, **values})
    with torch.device("meta"):
        net = make_backbone(config.model, config.options)
    change_strides(net, config.strides)
    maps = maps_of(net, changed=bool(config.strides))
    indices, normed = [index_of(level, maps) for level in config.levels], config.norm and is_plain(net)
    net.prune_intermediate_layers(indices, prune_norm=not normed, prune_head=True)
    channels = {level: maps[i][1] for level, i in zip(config.levels, indices, strict=True)}
    return config, TimmTeacher(net, indices, channels, normed, "", config.autocast)


def counted(values: dict[str, Any]) -> TeacherFacts:
    """Facts of one row, counted anew."""
    size = PATCH_14 if "patch14" in values.get("model", "") else SIZE
    return teacher_facts(*weightless(values), size)


def page() -> str:
    """The page as Markdown, from the saved counts."""
    rows = [HEAD, ["---"] * len(HEAD), *read_json(COUNTED)["rows"]]
    table = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([INTRO, *table, NOTES]) + agreement(read_json(AGREED))


def agreement(found: dict[str, Any]) -> str:
    """The section on saved runs with real weights, as Markdown."""
    rows, (height, width) = found["rows"], found["size"]
    head = AGREEMENT.format(frames=rows[0]["frames"], data=found["data"], height=height, width=width)
    return head + "".join(f"| {' | '.join(agreement_cells(row))} |\n" for row in rows)


def agreement_cells(row: dict[str, Any]) -> list[str]:
    """One teacher's line of that section."""
    found = {level: row["levels"][level] for level in sorted(row["levels"], key=place)}
    levels = (f"{level} {own['difference']:.2g} ({own['largest']:.1f})" for level, own in found.items())
    return [row["teacher"], f"`{row['digest'][:10]}`", row["reference"], ", ".join(levels)]


def main() -> None:
    """Counts every row and writes counts and page."""
    from pipeline.maintenance.reference_pages import text

    write_json(COUNTED, {"rows": [counted(values).cells() for values in LISTED]})
    write_atomic(ROOT / PAGE, text(PAGE))
    print(PAGE)


if __name__ == "__main__":
    main()
