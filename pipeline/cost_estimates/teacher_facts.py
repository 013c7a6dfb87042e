"""What is known of a teacher before it runs: licence, levels, bytes and FLOPs of a view, normalisation.

Licences are those that timm records for the tag (SAM 2's: of its repository). timm has no field for gating; `GATED` has
what the publishers say. FLOPs are counted on the meta device, where only shapes are computed; a multiply-add is two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from sward.compat import import_torchvision_safely
from sward.contracts import Channels
from sward.levels import grid_of
from sward.teachers import TeacherConfig

HEAD = ("teacher", "licence", "gated", "levels", "view", "MB a view", "GFLOP a view", "mean; std")
GATED = {  # beginning of the tagged model -> whether one must be let in to download its weights
    "hiera": "no",
    "vit_small_patch16_dinov3": "Meta's files",
    "vit_base_patch16_dinov3": "Meta's files",
    "vit_large_patch16_dinov3": "Meta's files",
    "convnext_": "Meta's files",  # of the dinov3 tags alone, see `gated`
    "tiny_vit": "no",
    "samvit": "no",
}
UNKNOWN = "not known"


@dataclass(frozen=True)
class TeacherFacts:
    """One row of the table of teachers.

    Attributes:
        name: model of timm, or Hiera's architecture.
        licence: of the weights.
        gated: whether the weights are given to those alone who were let in.
        levels: level -> channels.
        size: (height, width) of the view in pixels.
        flops: of the teacher for this view.
        mean, std: of RGB in [0, 1], with which the teacher was trained.
    """

    name: str
    licence: str
    gated: str
    levels: Channels
    size: tuple[int, int]
    flops: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the features of one view in half precision."""
        grids = {level: grid_of(level, self.size) for level in self.levels}
        return sum(2 * c * grids[level][0] * grids[level][1] for level, c in self.levels.items())

    def cells(self) -> list[str]:
        """The row's cells, in the order of ``HEAD``."""
        levels = " ".join(f"{level}·{c}" for level, c in self.levels.items())
        normalisation = "; ".join(" ".join(f"{v:.3g}" for v in three) for three in (self.mean, self.std))
        view = "×".join(map(str, self.size))
        return [self.name, self.licence, self.gated, levels, view, f"{self.bytes / 1e6:.2f}",
                f"{self.flops / 1e9:.3g}", normalisation]  # fmt: skip


def teacher_facts(config: TeacherConfig, teacher: Any, size: tuple[int, int]) -> TeacherFacts:
    """Collects the facts of a teacher for views of ``size`` (height, width); ``teacher`` may be on the meta device."""
    hiera = config.kind == "hiera"
    name = f"Hiera {config.architecture}" if hiera else config.architecture
    mean, std = config.normalisation
    return TeacherFacts(
        name=name,
        licence=licence(config),
        gated=gated("hiera" if hiera else config.architecture),
        levels=dict(teacher.channels),
        size=size,
        flops=count(teacher, size),
        mean=mean,
        std=std,
    )


def licence(config: TeacherConfig) -> str:
    """Licence of the weights; of a timm model as its tag records it."""
    if config.kind == "hiera":
        return "apache-2.0" if config.architecture != "pocket" else "this project's"
    import_torchvision_safely()
    import timm

    known = timm.get_pretrained_cfg(config.model, allow_unregistered=False)
    return str(known.license or UNKNOWN) if known is not None else UNKNOWN


def gated(model: str) -> str:
    """Whether the weights of a tagged model are given to those alone who were let in, as far as it is known."""
    if model.startswith("convnext_") and "dinov3" not in model:
        return UNKNOWN
    return next((said for beginning, said in GATED.items() if model.startswith(beginning)), UNKNOWN)


@torch.no_grad()
def count(teacher: Any, size: tuple[int, int]) -> int:
    """FLOPs of the matrix products, attention and convolutions of one view, counted without arithmetic."""
    weightless = {k: v.to("meta") for k, v in (*teacher.named_parameters(), *teacher.named_buffers())}
    with FlopCounterMode(display=False) as counter:
        functional_call(teacher, weightless, (torch.empty(1, 3, *size, device="meta"),))
    return int(counter.get_total_flops())


def aligned(rows: Iterable[Iterable[str]]) -> list[str]:
    """A table of plain text: columns as wide as their widest cell."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
