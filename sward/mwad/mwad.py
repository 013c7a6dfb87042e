"""Multi-Scale Windowed Attention Distillation (MWAD), paper Sec. 3.1, Eq. 1-15.

Teacher and student maps of one level are brought to one grid and cut into the same shifted windows; 1x1
convolutions give each network queries, keys and values, and the student's attention, values and contexts
follow the teacher's. The letters (A)-(M) in ``MWADConfig`` mark what the paper leaves open; ``preset: paper``
takes it by the letter.

    mwad = MWAD({"s8": 192, "s16": 384}, {"s8": 24, "s16": 48})
    mwad.prepare(teacher_features)  # once: standardisation, phi, gain
    terms = mwad(teacher_features, student_features, seed=0, step=0)  # attn, value, context
"""

# B batch, C channels, H W height and width, N windows, M window side, T = M * M tokens, d width of Q, K, V

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from sward.align import pair_levels
from sward.mwad.config import MWADConfig
from sward.mwad.fused import fused_terms
from sward.mwad.monitors import relational_signal
from sward.mwad.projections import Projections
from sward.mwad.reference import plain_terms, relate_teacher
from sward.mwad.windows import Windows, draw_offset

Features = Mapping[str, Tensor]


class MWAD(nn.Module):
    """The distillation terms of all stages and the projections they need.

    ``pairs`` lists (teacher level, student level); ``stages[<teacher level>]`` holds the pair's
    ``Projections``. With ``teacher_proj: frozen`` phi and Theta_t are parameters without gradient. Everything
    is computed in float32 (float64 for a float64 module), autocast or not. Gradients never reach the
    teacher's features.

    Args:
        teacher_channels: level -> channels, shallow to deep.
        student_channels: the same of the student.
        config: the switches.
        num_classes: classes of the labels, needed by ``teacher_proj: aux``.

    Raises:
        ValueError: no pair, an unknown level, a wrong number of window sides, or aux without ``num_classes``.
    """

    prepared: Tensor

    def __init__(
        self,
        teacher_channels: Mapping[str, int],
        student_channels: Mapping[str, int],
        config: MWADConfig | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or MWADConfig()
        self.pairs = pair_levels(list(teacher_channels), list(student_channels), config.pairing)
        self.sides = config.window if isinstance(config.window, list) else [config.window] * len(self.pairs)
        if len(self.sides) != len(self.pairs):
            raise ValueError(f"mwad.window has {len(self.sides)} sides for {len(self.pairs)} stages {self.pairs}")
        if config.teacher_proj == "aux" and num_classes is None:
            raise ValueError("teacher_proj 'aux' classifies V_t: give num_classes")
        self.stages = nn.ModuleDict(
            {t: Projections(teacher_channels[t], student_channels[s], config, num_classes, t) for t, s in self.pairs}
        )
        self.register_buffer("prepared", torch.tensor(False))
        self.reset(seed=0)

    def reset(self, seed: int) -> None:
        """Draws the initial projections anew and forgets what was prepared."""
        for t, _ in self.pairs:
            self._projections(t).reset(seed)
        config = self.config
        self._ready = not (config.standardise or config.phi_init == "pca" or config.gain == "auto")
        self.prepared.fill_(self._ready)

    def prepare(
        self,
        features: Features,
        statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        seed: int = 0,
    ) -> None:
        """Fits what depends on the data, once before the first step: deterministic in its arguments.

        Args:
            features: teacher level -> (B, C_t, H, W), a fixed batch of training records.
            statistics: teacher level -> (mean, std), each (C_t,), of the whole set; by default those of the
                batch.
            seed: the run's seed, for the random projections.

        Raises:
            ValueError: features that are constant, absent or of other channels.
        """
        self.reset(seed)
        for (level, _), side in zip(self.pairs, self.sides, strict=True):
            f_t = self._teacher_map(features, level)
            known = None if statistics is None else statistics[level]
            self._projections(level).prepare(f_t, known, min(side, *f_t.shape[-2:]))
        self.prepared.fill_(True)

    def forward(
        self,
        teacher: Features,
        student: Features,
        *,
        seed: int,
        step: int,
        labels: Tensor | None = None,
        offsets: Mapping[str, tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """The terms of one step, each the mean over the stages (Eq. 15), unweighted.

        Args:
            teacher: level -> (B, C_t, H, W), any floating type.
            student: level -> (B, C_s, H, W).
            seed: the run's seed; with ``step`` it decides the offsets.
            step: the training step.
            labels: (B, H, W) int64, only read by ``teacher_proj: aux``.
            offsets: teacher level -> (dx, dy), instead of drawing them.

        Returns:
            Scalars ``attn``, ``value``, ``context`` as chosen by ``terms``; with aux also ``aux``.

        Raises:
            ValueError: an absent level, other channels than built for, or aux without labels.
            RuntimeError: ``prepare`` is due.
        """
        self._require_prepared()
        found = []
        with torch.autocast(next(iter(student.values())).device.type, enabled=False):
            for i, (t, s) in enumerate(self.pairs):
                f_t, f_s = self._teacher_map(teacher, t).detach(), self._student_map(student, t, s)
                windows = self._windows(i, f_t, f_s.shape[-2:], (offsets or {}).get(t), seed, step)
                visible, valid = self._masks(windows, f_t)
                if self.config.teacher_proj == "frozen":
                    found.append(fused_terms(self._projections(t), f_t, f_s, windows, visible, valid))
                else:
                    found.append(plain_terms(self._projections(t), f_t, f_s, windows, visible, valid, labels))
        return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}

    @torch.no_grad()
    def signal(
        self, teacher: Features, sizes: Mapping[str, tuple[int, ...]], *, seed: int, step: int
    ) -> dict[str, dict[str, Tensor]]:
        """Monitors of the teacher side (``relational_signal``) by teacher level, for one teacher-side pass.

        ``sizes``: student level -> (H, W), which with the teacher's decide the common grid.
        """
        found = {}
        for i, (t, s) in enumerate(self.pairs):
            f_t = self._teacher_map(teacher, t)
            windows = self._windows(i, f_t, sizes[s], None, seed, step)
            visible, valid = self._masks(windows, f_t)
            found[t] = relational_signal(*relate_teacher(self._projections(t), f_t, windows, visible), visible, valid)
        return found

    def _projections(self, t: str) -> Projections:
        return cast(Projections, self.stages[t])

    def _windows(
        self,
        i: int,
        f_t: Tensor,
        size_s: tuple[int, ...],
        offset: tuple[int, int] | None,
        seed: int,
        step: int,
    ) -> Windows:
        H, W = min(f_t.shape[-2], size_s[0]), min(f_t.shape[-1], size_s[1])  # Eq. 3
        side = min(self.sides[i], H, W)
        dx, dy = offset or draw_offset(self.config.shift, side, seed, step, self.pairs[i][0])
        return Windows(H, W, side, dx, dy, self.config.roll == "after_padding")

    def _masks(self, windows: Windows, f: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return windows.masks(self.config.mask_padding, self.config.seam_mask, f.device)

    def _teacher_map(self, features: Features, t: str) -> Tensor:
        return _checked(features, t, self._projections(t).phi.in_channels, "teacher", self._projections(t).mean.dtype)

    def _student_map(self, features: Features, t: str, s: str) -> Tensor:
        return _checked(
            features, s, self._projections(t).theta_s.in_channels, "student", self._projections(t).mean.dtype
        )

    def _require_prepared(self) -> None:
        if not self._ready and not self.prepared:  # the buffer is read (and the device waited for) once
            raise RuntimeError(
                "MWAD is not prepared: call prepare(features) once before the first step, or load a state "
                "that was prepared"
            )
        self._ready = True


def _checked(features: Features, level: str, channels: int, who: str, dtype: torch.dtype) -> Tensor:
    if level not in features:
        raise ValueError(f"no {who} features of level {level}; found {sorted(features)}")
    f = features[level]
    if f.ndim != 4 or f.shape[1] != channels:
        raise ValueError(f"{who} {level}: found shape {tuple(f.shape)}, expected (B, {channels}, H, W)")
    return f.to(torch.promote_types(dtype, torch.float32))
