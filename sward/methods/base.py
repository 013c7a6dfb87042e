"""Base class and layers of methods that compare teacher tensors with student tensors.

The teacher's map is used as it is. The student's is resized bilinearly (corners not aligned) to the teacher's grid
before the adapters; the authors' code requires equal sizes instead. With a 1x1 convolution alone the order makes no
difference, with BN and ReLU after it, it does: HeteroAKD's formula projects first (``resize_first``), the others state
no order.

The docstring of every method has the same headings: Terms, Paper and code, Differences (from them), Reads, Random
draws, Parameters and buffers. Parameters are trained with the student unless called frozen, and dropped after training.
"""

import math
from collections.abc import Collection, Sequence
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sward import levels, seeds
from sward.align import resize
from sward.contracts import HEAD_TENSORS, IGNORE, BaseMethodConfig, Batch, Channels, Method, StudentOutput
from sward.distributed.collectives import current_slice, sum_over_ranks

TensorName = Annotated[str, Field(pattern=rf"^({levels.DEEPEST}|{levels.PATTERN}|penultimate|logits)$")]


class FeatureConfig(BaseMethodConfig):
    """Fields of every method that reads one teacher tensor."""

    level: TensorName = Field(
        default=levels.DEEPEST,
        description="Teacher tensor: a level, `deepest`, or one of a head; paired with the student's of that name or "
        "stride, else its deepest level. With `teacher.size`: with the level of the nearest grid on the image.",
    )

    @property
    def uses_head(self) -> bool:
        return self.level in HEAD_TENSORS

    def for_levels(self, levels_: Sequence[str]) -> Self:
        return self.model_copy(update={"level": levels.of_rule(self.level, levels_)})


class FeatureMethod(Method):
    """Base of methods that compare one teacher map with one student map; a subclass defines ``terms``.

    Both maps reach ``terms`` in float32 (float64 if one of them is float64), the teacher's without gradient. Adapters
    compute in the dtype of the maps. Initial weights are PyTorch's defaults, drawn from the run's seed in ``prepare``
    (before it, from seed 0); ``load_state_dict`` loads other weights, under the names that each method lists.

    Args:
        config: of the method.
        teacher_channels: channels of every teacher tensor, those of the head included.
        student_channels: channels of every student tensor, penultimate map and logits included (``tensors``).

    Attributes:
        teacher_level, student_level: names of the pair.
        teacher_channels, student_channels: numbers of channels of the pair.
        resize_first: whether the student's map is on the teacher's grid when it reaches ``terms``.

    Raises:
        ValueError: the teacher has no such tensor, or the student has no level at all.
    """

    resize_first = True

    def __init__(
        self, config: FeatureConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]
    ) -> None:
        super().__init__()
        self.teacher_level, self.student_level = paired_tensors(config.level, teacher_channels, list(student_channels))
        self.needs = (self.teacher_level,)
        self.teacher_channels = teacher_channels[self.teacher_level]
        self.student_channels = student_channels[self.student_level]
        self.weights = {"task": config.alpha}

    def prepare(self, batch: Batch, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Draw the adapters' initial weights from the run's seed."""
        initialise(self, batch.seed)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        f_s, f_t = at_least_float32(output.tensor(self.student_level), batch.features[self.teacher_level])
        with torch.autocast(f_s.device.type, enabled=False):
            return self.terms(resize(f_s, grid(f_t)) if self.resize_first else f_s, f_t, batch, step)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Unweighted terms of the student's map (B, C_s, H, W) and the teacher's (B, C_t, H, W)."""
        raise TypeError(f"{type(self).__name__} does not define terms")

    def add_logits(self, name: str, weight: float, teacher: Channels) -> None:
        """Declare a term that compares logits, unless its weight is 0. Raises ValueError without a teacher head."""
        if weight > 0:
            require(teacher, "logits")
            self.needs = tuple(dict.fromkeys((*self.needs, "logits")))
            self.weights[name] = weight


def at_least_float32(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float32, or float64 if one of them is float64; the teacher's without gradient."""
    dtype = torch.promote_types(torch.promote_types(f_s.dtype, f_t.dtype), torch.float32)
    return f_s.to(dtype), f_t.detach().to(dtype)


def grid(f_BCHW: Tensor) -> tuple[int, int]:
    """Height and width of a map."""
    return f_BCHW.shape[-2], f_BCHW.shape[-1]


def tensors(levels: Channels, num_classes: int, penultimate: int) -> Channels:
    """Channels of every student tensor by name: levels, penultimate map, logits."""
    return levels | {"penultimate": penultimate, "logits": num_classes}


def paired_tensors(level: str, teacher: Collection[str], student: list[str]) -> tuple[str, str]:
    """Names of the teacher's tensor and of the student's: of the same name, the same stride, or the deepest level.

    Of a teacher that sees the view at its own size, a level pairs with the student's of the nearest grid instead.

    Raises:
        ValueError: the teacher has no such tensor, or the student has no level.
    """
    level = levels.of_rule(level, [name for name in teacher if name not in HEAD_TENSORS])
    require(teacher, level)
    zoomed = level not in HEAD_TENSORS and levels.zoom_of(level, teacher) != 1
    if (same := levels.own_name(level)) in student and not zoomed:
        return level, same
    if not (own := [name for name in student if name not in HEAD_TENSORS]):
        raise ValueError("the student declares no levels; nothing to distil into")
    if zoomed:
        return level, levels.nearest(level, teacher, own)
    return level, (None if level in HEAD_TENSORS else levels.of_stride(level, own)) or own[-1]


def trunk(teacher: Channels) -> Channels:
    """Channels of the teacher's levels alone, without the head's tensors; of ``TeacherChannels``, with their zoom."""
    found = {name: c for name, c in teacher.items() if name not in HEAD_TENSORS}
    return teacher.only(found) if isinstance(teacher, levels.TeacherChannels) else found


def require(teacher: Collection[str], *names: str) -> None:
    """Raise ValueError for tensors that the teacher does not give, with the command that adds them."""
    if head := [name for name in names if name in HEAD_TENSORS and name not in teacher]:
        raise ValueError(
            f"the method reads the teacher's {' and '.join(head)}, which a fitted head gives: add "
            "`head: {steps: 300}` to the training configuration, then `sward fit-head CONFIG` (with `head.tensors: "
            "appended` also `sward extract CONFIG --append logits,penultimate --head RUN`)"
        )
    if missing := [name for name in names if name not in teacher]:
        raise ValueError(
            f"the method reads {', '.join(missing)}; the store has {list(teacher)}: set method.level to one of them, "
            "or make a store that has it with `sward extract`"
        )


def conv(inputs: int, outputs: int, kernel: int = 1, bias: bool = True, groups: int = 1) -> nn.Conv2d:
    """Convolution of stride 1 that keeps H and W; its values are undefined until ``initialise``."""
    return skip_init(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2, bias=bias, groups=groups)


def apply(layer: nn.Conv2d, f_BCHW: Tensor) -> Tensor:
    """Output of the convolution, computed in the input's dtype."""
    bias, padding = None if layer.bias is None else layer.bias.to(f_BCHW.dtype), layer.kernel_size[0] // 2
    return F.conv2d(f_BCHW, layer.weight.to(f_BCHW.dtype), bias, padding=padding, groups=layer.groups)


class BatchNorm(nn.Module):
    """Batch normalisation with the batch's own statistics, also in evaluation mode; eps 1e-5, in the input's dtype.

    Adapters are dropped after training, so no running statistics are kept: remove ``running_mean``, ``running_var`` and
    ``num_batches_tracked`` from an authors' state before loading it strictly.

    Raises:
        ValueError: at a call with one value per channel (one record, a 1x1 map), which has no variance.
    """

    def __init__(self, channels: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels) if zero else torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, f_BCHW: Tensor) -> Tensor:
        if f_BCHW[:, 0].numel() == 1 and current_slice() is None:
            raise ValueError(
                "batch normalisation found one value per channel (one record, a map of 1 x 1) and needs two or more: "
                "use a finer level, larger records, or a larger batch_size"
            )
        weight, bias = self.weight.to(f_BCHW.dtype), self.bias.to(f_BCHW.dtype)
        return F.batch_norm(f_BCHW, None, None, weight, bias, training=True, eps=1e-5)


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Give every convolution in ``module`` PyTorch's default initial values.

    They are a function of the seed, the class name of ``module`` and the layer's name in it, so these names must stay.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            generator = torch.Generator().manual_seed(seeds.torch_seed(seed, type(module).__name__, name))
            bound = 1 / math.sqrt(layer.weight[0].numel())  # kaiming_uniform with a = sqrt(5)
            for parameter in layer.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def labelled_mean(x_BHW: Tensor, y_BHW: Tensor) -> Tensor:
    """Mean of ``x`` over the labelled positions of the whole batch, also of several processes; 0 if there are none."""
    valid = y_BHW != IGNORE
    return sum_over_ranks(torch.where(valid, x_BHW, 0.0).sum()) / sum_over_ranks(valid.sum()).clamp_min(1)


def class_mask(y_BHW: Tensor, num_classes: int) -> Tensor:
    """(B, K, H, W) bool, True at each position's label; at ``IGNORE`` nowhere."""
    return y_BHW[:, None] == torch.arange(num_classes, device=y_BHW.device).view(1, -1, 1, 1)


def ramp(step: int, steps: int) -> float:
    """Factor of a linear warm-up over ``steps`` steps: (step + 1) / steps, then 1; 1 throughout if ``steps`` is 0."""
    return min(1.0, (step + 1) / steps) if steps else 1.0
