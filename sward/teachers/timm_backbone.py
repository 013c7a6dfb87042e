"""Frozen backbone of the package timm as a teacher: plain vision transformers, Swin, ConvNeXt, ResNet and others.

All of them have ``forward_intermediates``, which gives maps after chosen blocks (plain transformers) or stages
(pyramids), without class and register tokens. Weights are loaded strictly here: timm's own loading accepts a file that
lacks a block and leaves random weights there. Positions are interpolated at run time where the model can
(``dynamic_img_size``), so the same file gives the same digest for every input size.

timm imports torchvision, so it is imported inside the functions, after `sward.compat`.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, JsonValue, field_validator
from torch import Tensor, nn
from torch.func import functional_call

from sward.compat import import_torchvision_safely
from sward.digest import state_digest
from sward.levels import Level, grid_of, place, stride
from sward.teachers.own_input import Normalisation, OwnInputConfig
from sward.teachers.precision import prepare_layers, teacher_precision
from sward.teachers.timm_models import (
    change_strides,
    index_of,
    intermediates,
    is_plain,
    load_strictly,
    loadable,
    make_backbone,
    maps_of,
)


class TimmConfig(OwnInputConfig):
    """Configuration of a timm backbone: model, weights, levels, and what is changed in the network."""

    kind: Literal["timm"] = Field("timm", description="Teacher family.")
    model: str = Field(
        min_length=1,
        description="Name in timm; the tag sets the normalisation, e.g. vit_small_patch16_dinov3.lvd1689m.",
    )
    weights: str = Field(description="Path of a .pt or .safetensors file, or hub:<owner>/<repository>/<file>.")
    levels: tuple[Level, ...] = Field(
        min_length=1,
        description="Maps to store, e.g. [s4, s8, s16, s32] of a pyramid, or [s16@3, s16@6, s16@9, s16@12] of a plain "
        "transformer: after those blocks, counted from 1. Without a number: the last map of that stride.",
    )
    norm: bool = Field(True, description="Final norm on every map of a plain transformer; no effect on pyramids.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Arguments of timm's model, e.g. {img_size: [512, 512]} for one-size models."
    )
    strides: dict[str, int] = Field(
        default_factory=dict,
        description="Convolutions whose stride differs from timm's, e.g. {stages.3.downsample.conv2.conv: 1} for "
        "MobileSAM's tiny_vit_5m_224.",
    )
    digest: str | None = Field(None, description="Expected digest of the loaded tensors (null: any).")
    autocast: bool = Field(
        False,
        description="Run in bfloat16 autocast, on GPUs and CPUs; `sward plan` shows what it gains and changes here.",
    )

    @field_validator("model")
    @classmethod
    def _one_name_each(cls, model: str) -> str:
        if model.startswith("sam2_hiera_"):
            size = model.removeprefix("sam2_hiera_").split(".")[0]
            raise ValueError(f"SAM 2's trunk has a kind of its own: {{kind: hiera, architecture: {size}}}")
        return model

    @field_validator("levels")
    @classmethod
    def _in_order(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        strides = [stride(level) for level in levels]
        if unclear := [level for level in levels if strides.count(stride(level)) > 1 and place(level)[1] == 0]:
            raise ValueError(f"several maps share the stride of {unclear[0]}; name the block of each: {unclear[0]}@12")
        if len(set(levels)) < len(levels):
            raise ValueError(f"found {', '.join(levels)}; name every level once")
        return tuple(sorted(levels, key=place))

    @property
    def architecture(self) -> str:
        """Name of the network for people."""
        return self.model

    @property
    def package(self) -> str:
        """Package whose code runs the network."""
        return "timm"

    def identity(self) -> dict[str, Any]:
        """Fields that determine the features; None: known once the weights are loaded."""
        names = ("kind", "digest", "autocast", "norm", "options", "strides")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        return fields | {"architecture": self.model, "levels": list(self.levels)} | self.own_input()

    @property
    def normalisation(self) -> Normalisation:
        """(mean, std) of RGB in [0, 1] with which the tagged model was trained.

        Raises:
            ValueError: timm doesn't know the model or its tag.
        """
        import_torchvision_safely()
        import timm

        try:
            known = timm.get_pretrained_cfg(self.model, allow_unregistered=False)
        except RuntimeError as error:
            like = timm.list_models(f"{self.model.split('.')[0]}*", pretrained=True)[:5]
            raise ValueError(f"teacher.model: {error} Similar names: {', '.join(like) or 'none'}") from error
        assert known is not None  # without unregistered names there is an error instead
        return tuple(known.mean), tuple(known.std)  # type: ignore[return-value]  # three channels each

    def build(self, state: Mapping[str, Any]) -> "TimmTeacher":
        """Builds the frozen teacher and loads ``state`` strictly.

        Raises:
            TrunkMismatch: the model has no such level or option, or the tensors are not its own; names them.
        """
        net = make_backbone(self.model, self.options)
        change_strides(net, self.strides)
        maps = maps_of(net, changed=bool(self.strides))
        indices = [index_of(level, maps) for level in self.levels]
        normed, known, tensors = self.norm and is_plain(net), set(net.state_dict()), loadable(net, state)
        digest = state_digest({k: v for k, v in self._at_own_size(tensors, state).items() if k in known})
        net.prune_intermediate_layers(indices, prune_norm=not normed, prune_head=True)
        load_strictly(net, tensors, known, f"{self.weights} is not {self.model}:")
        channels = {level: maps[i][1] for level, i in zip(self.levels, indices, strict=True)}
        return TimmTeacher(net, indices, channels, normed, digest, self.autocast)

    def _at_own_size(self, tensors: dict[str, Tensor], state: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors with positions on the grid that the model was trained on, whatever ``img_size`` asks for."""
        unsized = {k: v for k, v in self.options.items() if k != "img_size"}
        return tensors if unsized == self.options else loadable(make_backbone(self.model, unsized), state)


class TimmTeacher(nn.Module):
    """Frozen timm backbone: always in eval mode, without gradients.

    Attributes:
        net: timm's model, without the blocks after the last level.
        indices: block or stage of every level, counted from 0.
        channels: level -> channels, shallow to deep.
        normed: whether the final norm is applied to every map.
        autocast: whether it runs in bfloat16 autocast (`precision.py`).
    """

    def __init__(
        self, net: nn.Module, indices: list[int], channels: dict[str, int], normed: bool, digest: str, autocast: bool
    ) -> None:
        super().__init__()
        self.net: Any = net.requires_grad_(False)
        self.indices, self.channels, self.normed, self.autocast = indices, channels, normed, autocast
        self._digest = digest
        prepare_layers(net)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Keeps the teacher in eval mode, whatever ``mode`` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps normalised images (B, 3, H, W) to level -> features (B, C, H/stride, W/stride) float32.

        Raises:
            ValueError: a stride does not divide H and W, or the model takes another size only.
        """
        size = images.shape[-2:]
        if uneven := [level for level in self.channels if any(side % stride(level) for side in size)]:
            raise ValueError(
                f"teacher input is {size[0]}×{size[1]}; {uneven[-1]} needs multiples of {stride(uneven[-1])}"
            )
        with teacher_precision(images.device, self.autocast):
            maps = intermediates(self.net, images, self.indices, self.normed)
        return {level: f.float().contiguous() for level, f in zip(self.channels, maps, strict=True)}

    def digest(self) -> str:
        """Returns the sha256 over name, dtype, shape and bytes of the file's tensors, by their names in timm."""
        return self._digest

    def require_size(self, size: tuple[int, int]) -> None:
        """Runs one view of ``size`` (height, width) on the meta device, where only shapes are computed.

        Raises:
            ValueError: the model does not take that size; says what it takes.
        """
        weightless = {k: v.to("meta") for k, v in (*self.named_parameters(), *self.named_buffers())}
        try:
            features = functional_call(self, weightless, (torch.empty(1, 3, *size, device="meta"),))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"the teacher does not take views of {size[0]}×{size[1]}: {error}; use a size that it takes, or set "
                f"teacher.options: {{img_size: [{size[0]}, {size[1]}]}} (and eval_size as size)"
            ) from error
        if wrong := {k: tuple(f.shape[-2:]) for k, f in features.items() if f.shape[-2:] != grid_of(k, size)}:
            raise ValueError(f"views of {size[0]}×{size[1]} give maps of {wrong}; use sides that every stride divides")
