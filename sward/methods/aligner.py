"""What the feature-based rivals share: one tap in each network, adapters that start from a seed, one dtype.

The teacher's map is never touched. The student's is resized bilinearly (corners not aligned) to the teacher's
grid, where the authors' code demands equal sizes; a 1x1 convolution before or after gives the same.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sward import seeds
from sward.align import resize
from sward.contracts import Batch, Config, Method, StudentOutput


class TapConfig(Config):
    """Fields of every method that reads one teacher level."""

    alpha: float = Field(default=1.0, gt=0, description="Weight of the task loss.")
    level: Literal["s4", "s8", "s16", "s32"] = Field(
        default="s32", description="Teacher level; paired with the student's of that name, else its deepest."
    )


class TapMethod(Method):
    """Base of methods between one teacher map and one student map; a subclass defines ``terms``.

    ``teacher_level``, ``student_level``: the pair. Both maps reach ``terms`` on the teacher's grid, in float32
    (float64 where one of them is), the teacher's without gradient; adapters compute in the maps' dtype.

    Raises:
        ValueError: the store has no such teacher level, or the student has no level at all.
    """

    def __init__(self, config: TapConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__()
        self.teacher_level, self.student_level = tap(config.level, list(teacher_channels), list(student_channels))
        self.needs = (self.teacher_level,)
        self.teacher_channels = teacher_channels[self.teacher_level]
        self.student_channels = student_channels[self.student_level]
        self.weights = {"task": config.alpha}

    def prepare(self, batch: Batch, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Draws the adapters' initial weights from the run's seed."""
        initialise(self, batch.seed)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        f_t, f_s = batch.features[self.teacher_level].detach(), output.features[self.student_level]
        dtype = torch.promote_types(torch.promote_types(f_t.dtype, f_s.dtype), torch.float32)
        with torch.autocast(f_s.device.type, enabled=False):
            f_t = f_t.to(dtype)
            return self.terms(resize(f_s.to(dtype), (f_t.shape[-2], f_t.shape[-1])), f_t, batch, step)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Unweighted terms from (B, C_s, H, W) of the student and (B, C_t, H, W) of the teacher."""
        raise TypeError(f"{type(self).__name__} does not define terms")


def tap(level: str, teacher: list[str], student: list[str]) -> tuple[str, str]:
    """(teacher level, student level): equal names, else the student's deepest. Raises ValueError without one."""
    if level not in teacher:
        raise ValueError(f"method.level is {level}; the store has {teacher}: choose one of them, or extract {level}")
    if not student:
        raise ValueError("the student declares no levels; nothing to distil into")
    return level, level if level in student else student[-1]


def conv(inputs: int, outputs: int, kernel: int = 1, bias: bool = True) -> nn.Conv2d:
    """Convolution of stride 1 that keeps H and W, without values; ``initialise`` gives them."""
    return skip_init(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def apply(layer: nn.Conv2d, f_BCHW: Tensor) -> Tensor:
    """The convolution in the input's dtype."""
    bias = None if layer.bias is None else layer.bias.to(f_BCHW.dtype)
    return F.conv2d(f_BCHW, layer.weight.to(f_BCHW.dtype), bias, padding=layer.kernel_size[0] // 2)


class BatchNorm(nn.Module):
    """Batch normalisation by the batch's own statistics (``weight``, ``bias``; eps 1e-5), in the input's dtype.

    Adapters are dropped after training, so no running statistics are kept.
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
