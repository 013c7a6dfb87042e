"""What the feature-based rivals share: one tap in each network, adapters that start from a seed, one dtype.

The teacher's map is never touched. The student's is resized bilinearly (corners not aligned) to the teacher's grid,
where the authors' code demands equal sizes, before the adapters. For a 1x1 convolution the order does not matter; for
BN and ReLU after it, it does: HeteroAKD's formula projects first (``resize_first``), for the others none is stated.
"""

import math
from collections.abc import Collection
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sward import seeds
from sward.align import resize
from sward.contracts import HEAD_TENSORS, BaseMethodConfig, Batch, Channels, Method, StudentOutput

TensorName = Literal["s4", "s8", "s16", "s32", "penultimate", "logits"]


class FeatureConfig(BaseMethodConfig):
    """Fields of every method that reads one teacher tensor."""

    level: TensorName = Field(
        default="s32", description="Teacher tensor; paired with the student's of that name, else its deepest level."
    )

    @property
    def uses_head(self) -> bool:
        return self.level in HEAD_TENSORS


class FeatureMethod(Method):
    """Base of methods between one teacher map and one student map; a subclass defines ``terms``.

    ``teacher_channels``, ``student_channels``: of all tensors, the head's and classifier's included (``tensors``).
    ``teacher_level``, ``student_level``: the pair. Both maps reach ``terms`` in float32 (float64 where one of them
    is), the teacher's without gradient; adapters compute in the maps' dtype. ``resize_first``: whether the student's
    is by then on the teacher's grid; else ``terms`` brings it there.

    Initial weights are PyTorch's defaults, drawn from the run's seed at ``prepare`` (before it, from seed 0); others
    are loaded by ``load_state_dict`` under the names of each method's "Parameters".

    Raises:
        ValueError: the teacher has no such tensor, or the student has no level at all.
    """

    resize_first = True

    def __init__(
        self, config: FeatureConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]
    ) -> None:
        super().__init__()
        self.teacher_level, self.student_level = paired_tensors(
            config.level, list(teacher_channels), list(student_channels)
        )
        self.needs = (self.teacher_level,)
        self.teacher_channels = teacher_channels[self.teacher_level]
        self.student_channels = student_channels[self.student_level]
        self.weights = {"task": config.alpha}

    def prepare(self, batch: Batch, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Draws the adapters' initial weights from the run's seed."""
        initialise(self, batch.seed)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        f_s, f_t = at_least_float32(output.tensor(self.student_level), batch.features[self.teacher_level])
        with torch.autocast(f_s.device.type, enabled=False):
            return self.terms(resize(f_s, grid(f_t)) if self.resize_first else f_s, f_t, batch, step)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Unweighted terms from (B, C_s, H, W) of the student and (B, C_t, H, W) of the teacher."""
        raise TypeError(f"{type(self).__name__} does not define terms")

    def add_logits(self, name: str, weight: float, teacher: Channels) -> None:
        """Declare a term between the logits, unless its weight is 0. Raises ValueError without a teacher head."""
        if weight > 0:
            require(teacher, "logits")
            self.needs = tuple(dict.fromkeys((*self.needs, "logits")))
            self.weights[name] = weight


def at_least_float32(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float32, or float64 where one of them is; the teacher's without gradient."""
    dtype = torch.promote_types(torch.promote_types(f_s.dtype, f_t.dtype), torch.float32)
    return f_s.to(dtype), f_t.detach().to(dtype)


def grid(f_BCHW: Tensor) -> tuple[int, int]:
    """(H, W)."""
    return f_BCHW.shape[-2], f_BCHW.shape[-1]


def tensors(levels: Channels, num_classes: int, penultimate: int) -> Channels:
    """Channels of all that a student gives: its levels, its penultimate map, its logits."""
    return levels | {"penultimate": penultimate, "logits": num_classes}


def paired_tensors(level: str, teacher: list[str], student: list[str]) -> tuple[str, str]:
    """(teacher tensor, student tensor): equal names, else the student's deepest level. Raises ValueError without."""
    require(teacher, level)
    if level in student:
        return level, level
    if not (levels := [name for name in student if name not in HEAD_TENSORS]):
        raise ValueError("the student declares no levels; nothing to distil into")
    return level, levels[-1]


def require(teacher: Collection[str], *names: str) -> None:
    """Raises ValueError for tensors the teacher does not give, with the command that adds them."""
    if head := [name for name in names if name in HEAD_TENSORS and name not in teacher]:
        raise ValueError(
            f"the method reads the teacher's {' and '.join(head)}, which a fitted head gives: add "
            "`head: {steps: 300}` to the training configuration, then `sward fit-head CONFIG` (with `head.tensors: "
            "appended` also `sward extract CONFIG --append logits,penultimate --head RUN`)"
        )
    if levels := [name for name in names if name not in teacher]:
        raise ValueError(
            f"the method reads {', '.join(levels)}; the store has {list(teacher)}: set method.level to one of them, "
            "or make a store that has it with `sward extract`"
        )


def conv(inputs: int, outputs: int, kernel: int = 1, bias: bool = True) -> nn.Conv2d:
    """Convolution of stride 1 that keeps H and W, without values; ``initialise`` gives them."""
    return skip_init(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def apply(layer: nn.Conv2d, f_BCHW: Tensor) -> Tensor:
    """The convolution in the input's dtype."""
    bias = None if layer.bias is None else layer.bias.to(f_BCHW.dtype)
    return F.conv2d(f_BCHW, layer.weight.to(f_BCHW.dtype), bias, padding=layer.kernel_size[0] // 2)


class BatchNorm(nn.Module):
    """Batch normalisation by the batch's own statistics (``weight``, ``bias``; eps 1e-5), in the input's dtype.

    In evaluation mode too. Adapters are dropped after training, so no running statistics are kept: of an authors'
    state, remove ``running_mean``, ``running_var`` and ``num_batches_tracked`` before a strict load.
    """

    def __init__(self, channels: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels) if zero else torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, f_BCHW: Tensor) -> Tensor:
        weight, bias = self.weight.to(f_BCHW.dtype), self.bias.to(f_BCHW.dtype)
        return F.batch_norm(f_BCHW, None, None, weight, bias, training=True, eps=1e-5)


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """PyTorch's default values of every convolution in ``module``, a function of the seed and its name."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            generator = torch.Generator().manual_seed(seeds.torch_seed(seed, type(module).__name__, name))
            bound = 1 / math.sqrt(layer.weight[0].numel())  # kaiming_uniform with a = sqrt(5)
            for parameter in layer.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
