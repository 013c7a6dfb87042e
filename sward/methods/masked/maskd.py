"""MasKD: compares the maps region by region, inside masks that learned tokens make of the teacher's map."""

# B batch, T tokens, C channels, H W height and width, n positions (H W)

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sward import seeds
from sward.contracts import HEAD_TENSORS, Batch, Channels, Prestage, PrestageConfig
from sward.methods.base import FeatureConfig, FeatureMethod, TensorName, apply, conv, initialise, tensors
from sward.methods.masked.mask_tokens import dice, draw, logits_with, masks, read_by_head
from sward.task import cross_entropy

DETECTION = {"form": "detection", "tokens": 6, "token_weights": True, "student_masks_after": 1000}


class MasKDConfig(FeatureConfig):
    """Form, tokens and their pre-stage. Unstated fields of the detection form take the authors' detection values:
    6 tokens, with token weights, and with the student's masks from step 1000.
    """

    kind: Literal["maskd"] = Field(default="maskd", description="Distance inside masks learned beforehand.")
    level: TensorName = Field(
        default="logits", description="Teacher tensor; paired with the student's of that name, else its deepest level."
    )
    form: Literal["segmentation", "detection"] = Field(
        default="segmentation",
        description="segmentation: factor 1/2, eps 1e-5; detection: neither, and always an aligner. Unstated: "
        "segmentation on logits, detection on every other tensor.",
    )
    weight: float = Field(
        default=1.0, gt=0, description="Weight (segmentation code: 1; detection configs: 7 for RetinaNet)."
    )
    tokens: int = Field(default=8, ge=2, description="T, masks an image (detection: 6).")
    masks: Literal["learned", "random"] = Field(
        default="learned", description="Tokens from the pre-stage, or left at their random start (a control)."
    )
    token_weights: bool = Field(
        default=False, description="Weigh masks per image by softmax(conv1x1(mean(conv3x3 f_t))) (detection: yes)."
    )
    student_masks_after: int | None = Field(
        default=None,
        ge=0,
        description="Step from which masks are multiplied by the student's own, without gradient; null: never "
        "(detection: 1000).",
    )
    prestage: PrestageConfig = Field(default=PrestageConfig(), description="Training of the tokens, and their seed.")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        by_level = "segmentation" if values.get("level", "logits") == "logits" else "detection"
        return {**DETECTION, **values} if values.get("form", by_level) == "detection" else values

    @property
    def uses_head(self) -> bool:
        return self.level in HEAD_TENSORS or self.masks == "learned"

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "MasKD":
        """The method for this teacher and student. Raises ValueError where the tensor is missing."""
        return MasKD(self, teacher, tensors(student, num_classes, penultimate))


class MaskTokens(Prestage):
    """Pre-stage that learns MasKD's tokens: the teacher's head must still work on the masked map.

    M_t = sigmoid(tokens_t . f_t). A masked trunk level goes through the whole head, a penultimate map through its
    classifier, logits through nothing.

    Terms:
        task: cross-entropy with sum_t M_t f_t in place of f_t; with token weights the sum is weighted by them.
        overlap: ``dice``.
    Parameters:
        ``tokens`` (T, C); with token weights ``near`` 3x3 C -> C and ``choose`` 1x1 C -> T (``weight``, ``bias`` each);
        start: normal with standard deviation 0.01, sqrt(2 / fan-out), zero biases.
    """

    def __init__(self, config: MasKDConfig, teacher_channels: dict[str, int]) -> None:
        super().__init__()
        self.level, self.settings = config.level, config.prestage
        self.needs = read_by_head(config.level, teacher_channels)
        C, T = teacher_channels[config.level], config.tokens
        self.key = {"kind": "maskd", "level": config.level, "channels": C, "tokens": T}
        self.key |= {"token_weights": config.token_weights}
        self.tokens = draw(config.prestage.seed, f"maskd {config.level}", T, C)
        self.near = conv(C, C, kernel=3) if config.token_weights else None
        self.choose = conv(C, T) if config.token_weights else None
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        for name, layer in self.named_children():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                generator = torch.Generator().manual_seed(seeds.torch_seed(self.settings.seed, "maskd", name))
                fan_out = layer.kernel_size[0] ** 2 * layer.out_channels
                start = torch.randn(layer.weight.shape, generator=generator) * (2 / fan_out) ** 0.5
                layer.weight.copy_(start)
                layer.bias.zero_()

    def forward(self, batch: Batch, head: nn.Module | None) -> dict[str, Tensor]:
        f_t = batch.features[self.level].detach()
        M = masks(self.tokens, f_t)
        weighted = M if (p := self.token_weights(f_t)) is None else M * p[..., None, None]
        masked = weighted.sum(1, keepdim=True) * f_t
        task = cross_entropy(logits_with({self.level: masked}, batch, head), batch.labels)
        return {"task": task, "overlap": dice(M)}

    def token_weights(self, f_t: Tensor) -> Tensor | None:
        """Weights (B, T), summing to 1 over T; None without token weights."""
        if self.near is None or self.choose is None:
            return None
        return apply(self.choose, apply(self.near, f_t).mean((2, 3), keepdim=True))[..., 0, 0].softmax(1)


class MasKD(FeatureMethod):
    """Compares the maps inside learned masks.

    Each mask's squared difference is divided by the mask's area, so small regions count as much as large ones.

    M_t = sigmoid(tokens_t . f_t), tokens from the pre-stage (``MaskTokens``), frozen; before ``load_prestage`` they are
    at their random start.

    Terms:
        masked: 1/2 mean over samples, tokens and channels of sum_n (M_t (f_s - f_t))^2 / (sum_n M_t + 1e-5). The
        detection form has neither the half nor the 1e-5 (a mask of zeros counts 0), may weigh the tokens, and from a
        step on multiplies M by the student's own masks, without gradient.
    Paper and code:
        Huang et al., ICLR 2023. hunto/MasKD b5af34f (Apache-2.0), formula checked there; written anew.
    Differences:
        The paper presents masks of features; the segmentation code masks the logits, as here by default. It adds 0.4
        times the same on auxiliary logits, which these students do not have, and leaves the teacher's batch norm in
        training mode in the pre-stage, which a frozen head does not. The detection code sums over pyramid levels; here
        one level.
    Reads:
        One teacher tensor; the pre-stage also labels and, except on logits, the head (for a trunk level with the whole
        trunk). The student is resized bilinearly to its grid.
    Random draws:
        None at a step. The tokens' start is a function of the pre-stage's seed.
    Parameters and buffers:
        ``align.weight`` (C_t, C_s, 1, 1), ``align.bias`` (absent in the segmentation form if channels are equal, as on
        logits); frozen: ``masks.tokens`` (T, C_t), and with token weights ``masks.near`` (C_t, C_t, 3, 3),
        ``masks.choose`` (T, C_t, 1, 1), ``weight`` and ``bias`` each. ``load_prestage`` takes them under the
        pre-stage's names, without ``masks.``: ``tokens``, ``near.weight``, ... No buffers.
    """

    per_sample = True

    def __init__(self, config: MasKDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config, self.teacher = config, teacher_channels
        C_s, C_t = self.student_channels, self.teacher_channels
        self.align = conv(C_s, C_t) if C_s != C_t or config.form == "detection" else None
        self.masks = MaskTokens(config, teacher_channels).requires_grad_(False)
        self.weights |= {"masked": config.weight}
        self._initialise(seed=0)

    def _initialise(self, seed: int) -> None:
        if self.align is not None:
            initialise(self.align, seed)

    def prestage(self) -> Prestage | None:
        return MaskTokens(self.config, self.teacher) if self.config.masks == "learned" else None

    def load_prestage(self, state: dict[str, Tensor]) -> None:
        self.masks.load_state_dict(state)

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Draw the aligner from the run's seed; the tokens stay, as runs of all seeds share them."""
        self._initialise(batch.seed)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        y_s, after = f_s if self.align is None else apply(self.align, f_s), self.config.student_masks_after
        M_BTHW = masks(self.masks.tokens, f_t)
        if after is not None and step >= after:
            M_BTHW = M_BTHW * masks(self.masks.tokens, y_s.detach())
        return {"masked": self.masked(y_s, f_t, M_BTHW)}

    def masked(self, y_s: Tensor, f_t: Tensor, M_BTHW: Tensor) -> Tensor:
        """Term ``masked`` of the aligned student and the teacher (B, C, H, W) for given masks."""
        M_BTn, square_BCn = M_BTHW.flatten(2), (y_s - f_t).square().flatten(2)
        area_BT1 = M_BTn.sum(-1, keepdim=True)
        segmentation = self.config.form == "segmentation"
        area_BT1 = area_BT1 + 1e-5 if segmentation else area_BT1.clamp_min(torch.finfo(area_BT1.dtype).tiny)
        distance_BT = (M_BTn.square() @ square_BCn.mT / area_BT1).mean(-1)
        p_BT = self.masks.token_weights(f_t)
        mean = distance_BT.mean() if p_BT is None else (p_BT * distance_BT).sum(1).mean()
        return mean / 2 if segmentation else mean
