"""FreeKD: compares wavelet details of the maps, weighted by masks that learned prompts make of the teacher's."""

# B batch, T tokens, C channels, h w the sides at one wavelet level, 3 orientations of detail

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, field_validator
from torch import Tensor, nn

from sward.contracts import (
    HEAD_TENSORS,
    BaseMethodConfig,
    Batch,
    Channels,
    Method,
    Prestage,
    PrestageConfig,
    StudentOutput,
)
from sward.levels import DEEPEST, LevelRule, of_rule
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, initialise, require, tensors
from sward.methods.masked import haar
from sward.methods.masked.mask_tokens import dice, draw, logits_with, masks, read_by_head
from sward.task import cross_entropy

LEVELS = 3  # of the wavelet transform; a prompt has one slice for each and one for the low band


class FreeKDConfig(BaseMethodConfig):
    """Stages, weights (the authors'), and the pre-stage of the prompts."""

    kind: Literal["freekd"] = Field(default="freekd", description="Wavelet details under prompts learned beforehand.")
    levels: tuple[LevelRule, ...] = Field(
        default=(DEEPEST,),
        min_length=1,
        description="Teacher stages, each paired as by other methods; terms are summed.",
    )
    weight: float = Field(default=1.0, gt=0, description="Weight of the details' distance.")
    mse_weight: float = Field(default=5.0, ge=0, description="Weight of the maps' mean squared difference.")
    tokens: int = Field(default=6, ge=2, description="T, masks a band (configs: 6; paper: 2).")
    prompts: Literal["learned", "random"] = Field(
        default="learned", description="Prompts from the pre-stage, or left at their random start (a control)."
    )
    prestage: PrestageConfig = Field(default=PrestageConfig(), description="Training of the prompts, and their seed.")

    @field_validator("levels")
    @classmethod
    def _once(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({level for level in levels if levels.count(level) > 1}):
            raise ValueError(f"levels: {', '.join(twice)} twice; name every stage once")
        return levels

    @property
    def uses_head(self) -> bool:
        return self.prompts == "learned"

    def for_levels(self, levels: Sequence[str]) -> Self:
        return self.model_copy(update={"levels": tuple(of_rule(level, levels) for level in self.levels)})

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "FreeKD":
        """The method for this teacher and student. Raises ValueError where a level is missing."""
        trunk = [name for name in teacher if name not in HEAD_TENSORS]
        return FreeKD(self.for_levels(trunk), teacher, tensors(student, num_classes, penultimate))


class FrequencyPrompts(Prestage):
    """Pre-stage that learns FreeKD's prompts: the teacher's head must still work on masked bands.

    Every band is multiplied by the sum of its masks (``band_masks``), and the inverse transform replaces the stage, all
    stages together.

    Terms:
        task: cross-entropy of the head on the stages so rebuilt.
        overlap: ``dice``, summed over the four bands and the stages.
    Parameters:
        ``prompts.<level>`` (4, T, C), as in ``band_masks``; start: normal, standard deviation 0.01.
    """

    def __init__(self, config: FreeKDConfig, teacher_channels: dict[str, int]) -> None:
        super().__init__()
        self.settings = config.prestage
        self.needs = read_by_head(config.levels[0], teacher_channels)
        channels = {level: teacher_channels[level] for level in config.levels}
        self.key = {"kind": "freekd", "levels": channels, "tokens": config.tokens}
        self.prompts = nn.ParameterDict({k: start(config, k, C) for k, C in channels.items()})

    def forward(self, batch: Batch, head: nn.Module | None) -> dict[str, Tensor]:
        changed, overlaps = {}, []
        for level, prompt in self.prompts.items():
            f_t = batch.features[level].detach()
            low, details = haar.forward(f_t, LEVELS)
            M = band_masks(prompt, low, details)
            bands = [d * m.sum(1)[:, None, None] for d, m in zip(details, M[1:], strict=True)]
            changed[level] = haar.inverse(low * M[0].sum(1, keepdim=True), bands, (f_t.shape[-2], f_t.shape[-1]))
            overlaps += [dice(m) for m in M]
        return {
            "task": cross_entropy(logits_with(changed, batch, head), batch.labels),
            "overlap": sum(overlaps[1:], overlaps[0]),
        }


class FreeKD(Method):
    """Compares details of the maps at several scales, where learned masks of the teacher say that they matter.

    d are the details of a wavelet level l, (B, C, 3, h, w), and M_l = sigmoid(prompt_l . x_l), x_l the teacher's
    details summed over orientations. Prompts come from the pre-stage (``FrequencyPrompts``), frozen; before
    ``load_prestage`` they are at their random start.

    Terms:
        frequency: sum over wavelet levels and stages of mean |M_l (d_s - d_t)|, over samples, tokens, channels,
        orientations and positions, computed as |d_s - d_t| times the mean mask. The low band is not compared.
        mse: mean (align(f_s) - f_t)^2, summed over stages.
    Paper and code:
        Zhang et al., CVPR 2024. Gumpest/FreeKD e0874f5 (Apache-2.0), formula checked there; written anew.
    Differences:
        The code names the three wavelet levels as if they were orientations; the paper's overlap is Dice there, and its
        position-aware weight is absent. Published for detection only, with prompts but without their pre-stage, which
        is rebuilt here; the authors' term between the heads' box outputs has no counterpart.
    Reads:
        The stages; the pre-stage also labels, the whole trunk and the head. The student is resized bilinearly to the
        teacher's grid.
    Random draws:
        None at a step. The prompts' start is a function of the pre-stage's seed (``start``).
    Parameters and buffers:
        By stage, e.g. s32: ``stages.s32.align.weight`` (C_t, C_s, 1, 1), ``stages.s32.align.bias``; frozen:
        ``stages.s32.prompt`` (4, T, C_t), which ``load_prestage`` takes under the pre-stage's name, ``prompts.s32``. No
        buffers.
    """

    per_sample = True

    def __init__(
        self, config: FreeKDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]
    ) -> None:
        super().__init__()
        require(teacher_channels, *config.levels)
        self.config, self.teacher, self.needs = config, teacher_channels, config.levels
        self.stages = nn.ModuleDict({k: Stage(config, k, teacher_channels, student_channels) for k in config.levels})
        self.weights = {"task": config.alpha, "frequency": config.weight, "mse": config.mse_weight}
        initialise(self, seed=0)

    def prestage(self) -> Prestage | None:
        return FrequencyPrompts(self.config, self.teacher) if self.config.prompts == "learned" else None

    def load_prestage(self, state: dict[str, Tensor]) -> None:
        for level, stage in self.stages.items():
            stage.get_parameter("prompt").data.copy_(state[f"prompts.{level}"])

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Draw the aligners from the run's seed; the prompts stay, as runs of all seeds share them."""
        initialise(self, batch.seed)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = [stage(output, batch, step) for stage in self.stages.values()]
        return {name: sum((terms[name] for terms in found[1:]), found[0][name]) for name in found[0]}


class Stage(FeatureMethod):
    """Both terms of FreeKD at one stage."""

    def __init__(
        self,
        config: FreeKDConfig,
        level: str,
        teacher_channels: dict[str, int],
        student_channels: dict[str, int],
    ) -> None:
        super().__init__(FeatureConfig(level=level), teacher_channels, student_channels)
        self.align = conv(self.student_channels, self.teacher_channels)
        self.prompt = start(config, level, self.teacher_channels).requires_grad_(False)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        y_s = apply(self.align, f_s)
        (low, wanted), (_, found) = haar.forward(f_t, LEVELS), haar.forward(y_s, LEVELS)
        M = band_masks(self.prompt, low, wanted)[1:]
        distances = [
            ((d_s - d_t).abs().mean((1, 2)) * m.mean(1)).mean() for d_s, d_t, m in zip(found, wanted, M, strict=True)
        ]
        return {"frequency": sum(distances[1:], distances[0]), "mse": (y_s - f_t).square().mean()}


def start(config: FreeKDConfig, level: str, channels: int) -> nn.Parameter:
    """Prompt (4, T, C) of a stage before the pre-stage; the same for all runs with the pre-stage's seed."""
    return draw(config.prestage.seed, f"freekd {level}", 1 + LEVELS, config.tokens, channels)


def band_masks(prompt: Tensor, low: Tensor, details: list[Tensor]) -> list[Tensor]:
    """Masks M (B, T, h, w) of the low band (prompt 0) and of each wavelet level's summed orientations (1 to 3)."""
    bands = [low, *(detail.sum(2) for detail in details)]
    return [masks(tokens_TC, band) for tokens_TC, band in zip(prompt, bands, strict=True)]
