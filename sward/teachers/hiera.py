"""Frozen Hiera trunk of SAM 2, SAM 2.1 and MedSAM2 (tiny, small, base_plus, large), or the small pocket teacher.

It is built from the class of `sam2`, or of timm (`hiera_timm.py`). SAM 2.0 and 2.1 have the same trunks; MedSAM2 has
the tiny one (512 px). The store holds the outputs of the four trunk stages (strides 4, 8, 16, 32), not those of the
256-channel neck, which can be computed from them. Importing `sam2` initialises Hydra's process-wide state, so it is
imported in `make_trunk` and nowhere else.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sward.digest import state_digest
from sward.teachers.hiera_timm import TimmHiera
from sward.teachers.own_input import Normalisation, OwnInputConfig
from sward.teachers.precision import keep_first_half, prepare_layers, teacher_precision
from sward.teachers.trunk_names import TrunkMismatch, trunk_tensors

__all__ = ["HieraConfig", "HieraTeacher", "TrunkMismatch", "trunk_tensors"]

LEVELS = ("s4", "s8", "s16", "s32")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as SAM 2 normalises RGB in [0, 1]

# Trunk sections of sam2's own yaml files; `pocket` is the small teacher that ships with this project.
SMALL_MAP = {"window_pos_embed_bkg_spatial_size": (7, 7)}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "pocket": {"embed_dim": 32, "stages": (1, 2, 3, 1), "global_att_blocks": (4,)} | SMALL_MAP,
    "tiny": {"embed_dim": 96, "stages": (1, 2, 7, 2), "global_att_blocks": (5, 7, 9)} | SMALL_MAP,
    "small": {"embed_dim": 96, "stages": (1, 2, 11, 2), "global_att_blocks": (7, 10, 13)} | SMALL_MAP,
    # sam2's default map of positions, and not timm's
    "base_plus": {"embed_dim": 112, "num_heads": 2, "window_pos_embed_bkg_spatial_size": (14, 14)},
    "large": {"embed_dim": 144, "num_heads": 2, "stages": (2, 6, 36, 4), "global_att_blocks": (23, 33, 43)}
    | SMALL_MAP
    | {"window_spec": (8, 4, 16, 8)},
}


class HieraConfig(OwnInputConfig):
    """Configuration of a Hiera teacher: trunk architecture and path of its weights."""

    neutral: ClassVar[dict[str, Any]] = {"size": None, "implementation": "sam2"}

    kind: Literal["hiera"] = "hiera"
    architecture: Literal["pocket", "tiny", "small", "base_plus", "large"] = Field(
        description="Trunk architecture; MedSAM2 is `tiny`."
    )
    weights: str = Field(
        description="Path of a .pt or .safetensors file, or hub:<owner>/<repository>/<file>, "
        "e.g. hub:facebook/sam2.1-hiera-tiny/sam2.1_hiera_tiny.pt."
    )
    digest: str | None = Field(
        None,
        description="Expected digest of the loaded trunk tensors (null: any); stage 2 compares it too.",
    )
    autocast: bool | Literal["half"] = Field(
        False,
        description="Run in bfloat16 autocast, on GPUs and CPUs, or with `half` the second half of the blocks alone; "
        "`sward plan` shows what it gains and changes here.",
    )
    implementation: Literal["sam2", "timm"] = Field(
        "sam2",
        description="Package whose code runs the trunk; timm needs no sam2, and gives the same features (on a CPU, to "
        "the bit).",
    )

    @property
    def normalisation(self) -> Normalisation:
        """(mean, std) of RGB in [0, 1] with which the trunks were trained."""
        return MEAN, STD

    @property
    def package(self) -> str:
        """Package whose code runs the trunk."""
        return self.implementation

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that the teacher gives, shallow to deep."""
        return LEVELS

    def identity(self) -> dict[str, Any]:
        """Fields that determine the features; None: known once the weights are loaded."""
        fields = ("kind", "architecture", "digest", "autocast")
        return {name: getattr(self, name) for name in fields} | {"levels": list(LEVELS)} | self.own_input()

    def build(self, state: Mapping[str, Tensor]) -> "HieraTeacher":
        """Builds the frozen teacher and loads ``state`` strictly.

        Raises:
            TrunkMismatch: keys or shapes differ; names them and the architecture that they fit.
        """
        trunk = make_trunk(self.architecture, self.implementation)
        tensors = trunk_tensors(state)
        if problems := key_problems(trunk, tensors):
            fits = likely_architecture(tensors)
            remedy = f"{fits}; set teacher.architecture to that" if fits else "none; set teacher.weights to another"
            raise TrunkMismatch(
                f"the checkpoint {self.weights} is not a Hiera `{self.architecture}` trunk:\n  "
                + "\n  ".join(problems)
                + f"\n  its tensors fit: {remedy}"
            )
        trunk.load_state_dict(tensors)
        return HieraTeacher(trunk, self.autocast)


def make_trunk(architecture: str, implementation: Literal["sam2", "timm"] = "sam2") -> nn.Module:
    """Builds a Hiera, randomly initialised: sam2's own class, or timm's.

    Raises:
        TrunkMismatch: the package sam2 is not installed.
    """
    if implementation == "timm":
        return TimmHiera(ARCHITECTURES[architecture])
    try:
        from sam2.modeling.backbones.hieradet import Hiera
    except ModuleNotFoundError as error:
        raise TrunkMismatch(
            "the teacher needs the package sam2; install it: pip install 'sward[teacher]', or set "
            "teacher.implementation: timm, which gives the same features without it"
        ) from error

    return Hiera(**ARCHITECTURES[architecture])


def key_problems(trunk: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Describes why ``tensors`` cannot be loaded strictly: one line per kind of problem, none if they can."""
    wanted = trunk.state_dict()
    shapes = [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    problems = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "of another shape": shapes,
    }
    return [f"{len(v)} {kind}: {', '.join(v[:3])}{' …' if len(v) > 3 else ''}" for kind, v in problems.items() if v]


def likely_architecture(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the architecture that has the tensors' width and depth; None if there is none."""
    depth = len({k.split(".")[1] for k in tensors if k.startswith("blocks.")})
    width = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else 0
    for name, a in ARCHITECTURES.items():
        if (a["embed_dim"], sum(a.get("stages", (2, 3, 16, 3)))) == (width, depth):
            return name
    return None


class HieraTeacher(nn.Module):
    """Frozen Hiera trunk: always in eval mode, without gradients.

    Attributes:
        trunk: Hiera of sam2, or of timm.
        autocast: whether the trunk, or its second half, runs in bfloat16 autocast (`precision.py`).
        channels: level -> channels, e.g. {"s4": 96, "s8": 192, "s16": 384, "s32": 768} for tiny.
    """

    def __init__(self, trunk: nn.Module, autocast: bool | Literal["half"] = False) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.autocast = autocast
        self.channels = trunk_channels(trunk)
        net = trunk.net if isinstance(trunk, TimmHiera) else trunk
        prepare_layers(net)
        if autocast == "half":
            keep_first_half(net)
        self.train(False)

    def train(self, mode: bool = True) -> "HieraTeacher":
        """Keeps the teacher in eval mode, whatever ``mode`` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps normalised images (B, 3, H, W) to level -> features (B, C, H/stride, W/stride) float32.

        Raises:
            ValueError: H or W is not a multiple of 32 (Hiera tiles its position embedding by whole windows).
        """
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            fit = f"{-(-height // 32) * 32}×{-(-width // 32) * 32}"
            raise ValueError(f"teacher input is {height}×{width}; sides must be multiples of 32: use {fit}")
        with teacher_precision(images.device, bool(self.autocast)):
            outputs = self.trunk(images)
        return {level: f.float() for level, f in zip(LEVELS, outputs, strict=True)}

    def require_size(self, size: tuple[int, int]) -> None:
        """No-op: every size that a store may have, in multiples of 32, fits."""

    def digest(self) -> str:
        """Returns the sha256 over name, dtype, shape and bytes of the loaded trunk tensors."""
        return state_digest(self.trunk.state_dict())


def trunk_channels(trunk: nn.Module) -> dict[str, int]:
    """Returns level -> channels of a Hiera, shallow to deep; Hiera's own list runs from deep to shallow."""
    channels: list[int] = trunk.channel_list  # type: ignore[assignment]
    return dict(zip(LEVELS, reversed(channels), strict=True))
