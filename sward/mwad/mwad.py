"""Multi-Scale Windowed Attention Distillation (MWAD), paper Sec. 3.1, Eq. 1-15.

Teacher and student maps are resized to one grid and cut into the same windows. In each window the student's attention
matrix (Eq. 11), values (Eq. 12) and contexts, the product of the two (Eq. 13), are trained to match the teacher's. The
windows shift every step, so that their borders differ from step to step.

Queries, keys and values are 1x1 convolutions of the maps (Eq. 8). The letters (A)-(M) in ``MWADConfig`` mark choices
that the paper leaves open; ``preset: paper`` follows its text literally.

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
from sward.mwad.attention_terms import plain_terms, relate_teacher
from sward.mwad.config import MWADConfig
from sward.mwad.fused_attention_terms import fused_terms
from sward.mwad.monitors import relational_signal
from sward.mwad.projections import Projections
from sward.mwad.windows import Windows, draw_offset, draw_windows
from sward.sent import sent

Features = Mapping[str, Tensor]


class MWAD(nn.Module):
    """Distillation terms of all stages, with the projections that they need.

    Everything is computed in float32 (float64 in a float64 module), also under autocast. With ``teacher_proj:
    frozen``, phi and Theta_t are parameters without gradient. Gradients never reach the teacher's features.

    Attributes:
        pairs: (teacher level, student level) of every stage, shallow to deep.
        sides: window side M of every stage, in cells.
        stages: teacher level -> the pair's ``Projections``.
        prepared: () bool buffer, True once ``prepare`` has run or if the configuration does not need it.

    Args:
        teacher_channels: teacher level -> channels, shallow to deep; ``TeacherChannels`` if it has its own size.
        student_channels: student level -> channels, shallow to deep.
        config: settings of MWAD.
        num_classes: number of classes of the labels, needed by ``teacher_proj: aux``.

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
        self.pairs = pair_levels(teacher_channels, list(student_channels), config.pairing)
        self.sides = config.window if isinstance(config.window, list) else [config.window] * len(self.pairs)
        if len(self.sides) != len(self.pairs):
            raise ValueError(
                f"mwad.window has {len(self.sides)} sides for {len(self.pairs)} stages {self.pairs}; "
                "give one side for all stages, or one per stage"
            )
        if config.teacher_proj == "aux" and num_classes is None:
            raise ValueError("teacher_proj 'aux' classifies V_t, but num_classes is None: give num_classes")
        self.stages = nn.ModuleDict(
            {t: Projections(teacher_channels[t], student_channels[s], config, num_classes, t) for t, s in self.pairs}
        )
        self.register_buffer("prepared", torch.tensor(False))
        self.reset(seed=0)

    def reset(self, seed: int) -> None:
        """Draws new initial projections from ``seed`` and discards what ``prepare`` has fitted."""
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
        """Fits standardisation, phi and gain to the data, once before the first step. Deterministic in its arguments.

        Args:
            features: teacher level -> (B, C_t, H, W), a fixed batch of training records.
            statistics: teacher level -> (mean, std) of the whole training set, each (C_t,); None takes them from
                the batch.
            seed: the run's seed, for the random projections.

        Raises:
            ValueError: features are missing, constant or of other channels.
        """
        self.reset(seed)
        for (level, _), side in zip(self.pairs, self.sides, strict=True):
            f_t = self._teacher_map(features, level)
            known = statistics[level] if statistics is not None and self.config.standardise else None
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
        """Computes the unweighted terms of one step, each the mean over the stages (Eq. 15).

        Args:
            teacher: level -> (B, C_t, H, W), any floating type.
            student: level -> (B, C_s, H, W), any floating type.
            seed: the run's seed; seed, step and level determine the windows' offsets, and which are compared.
            step: number of the training step.
            labels: (B, H, W) int64, read by ``teacher_proj: aux`` only.
            offsets: teacher level -> (dx, dy) in cells, in place of random offsets.

        Returns:
            Scalars ``attn`` (Eq. 11), ``value`` (Eq. 12) and ``context`` (Eq. 13), those that ``config.terms``
            selects; with ``teacher_proj: aux`` also ``aux``.

        Raises:
            ValueError: a level is missing, has other channels than the module was built for, or aux has no labels;
                batch sizes differ; an offset is of an unknown level or outside the map.
            RuntimeError: ``prepare`` has not been called.
        """
        self._require_prepared()
        self._check_inputs(teacher, student, offsets or {})
        by_stage = []
        with torch.autocast(next(iter(student.values())).device.type, enabled=False):
            for i, (t, s) in enumerate(self.pairs):
                f_t, f_s = self._teacher_map(teacher, t).detach(), self._student_map(student, t, s)
                windows = self._windows(i, f_t, f_s.shape[-2:], (offsets or {}).get(t), seed, step)
                parts, masks = (self._projections(t), f_t, f_s, windows), self._masks(windows, f_t)
                chosen = draw_windows(self.config.window_share, windows.count, seed, step, t)
                chosen = None if chosen is None else sent(chosen, f_s.device)
                if self.config.teacher_proj == "frozen":
                    by_stage.append(fused_terms(*parts, *masks, chosen))
                else:
                    by_stage.append(plain_terms(*parts, *masks, labels, chosen))
        return {name: torch.stack([terms[name] for terms in by_stage]).mean() for name in by_stage[0]}

    @torch.no_grad()
    def signal(
        self, teacher: Features, sizes: Mapping[str, tuple[int, ...]], *, seed: int, step: int
    ) -> dict[str, dict[str, Tensor]]:
        """Computes the monitors of the teacher side (``relational_signal``), by one pass through the teacher side.

        Args:
            teacher: level -> (B, C_t, H, W), any floating type.
            sizes: student level -> (H, W) in cells; with the teacher's sizes they determine the common grid.
            seed: the run's seed.
            step: number of the training step.

        Returns:
            Teacher level -> monitors by name.
        """
        by_level = {}
        for i, (t, s) in enumerate(self.pairs):
            f_t = self._teacher_map(teacher, t)
            windows = self._windows(i, f_t, sizes[s], None, seed, step)
            visible, valid = self._masks(windows, f_t)
            logA_t, V_t = relate_teacher(self._projections(t), f_t, windows, visible)
            by_level[t] = relational_signal(logA_t, V_t, visible, valid)
        return by_level

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

    def _check_inputs(self, teacher: Features, student: Features, offsets: Mapping[str, tuple[int, int]]) -> None:
        """Raises ValueError if batch sizes differ, or offsets are of unknown levels."""
        maps = {f"teacher {t}": teacher[t] for t, _ in self.pairs if t in teacher}
        maps |= {f"student {s}": student[s] for _, s in self.pairs if s in student}
        if len({len(f) for f in maps.values()}) > 1:
            found = ", ".join(f"{name}: {len(f)}" for name, f in maps.items())
            raise ValueError(f"found batches of different sizes ({found}); pass features of the same images")
        if unknown := sorted(set(offsets) - set(self.stages)):
            raise ValueError(
                f"found offsets of {unknown}, expected teacher levels of {list(self.stages)}: correct them"
            )

    def _masks(self, windows: Windows, f: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return windows.masks(self.config.mask_padding, self.config.seam_mask, f.device)

    def _teacher_map(self, features: Features, t: str) -> Tensor:
        return _checked(features, t, self._projections(t).phi.in_channels, "teacher", self._projections(t).mean.dtype)

    def _student_map(self, features: Features, t: str, s: str) -> Tensor:
        return _checked(
            features, s, self._projections(t).theta_s.in_channels, "student", self._projections(t).mean.dtype
        )

    def _require_prepared(self) -> None:
        if not self._ready and not self.prepared:  # read the buffer only once: that waits for the device
            raise RuntimeError(
                "MWAD is not prepared: call prepare(features) once before the first step, or load the state_dict of "
                "a prepared module"
            )
        self._ready = True


def _checked(features: Features, level: str, channels: int, who: str, dtype: torch.dtype) -> Tensor:
    if level not in features:
        raise ValueError(f"no {who} features of level {level}; found {sorted(features)}; pass all levels in `pairs`")
    f = features[level]
    if f.ndim != 4 or f.shape[1] != channels:
        raise ValueError(
            f"{who} {level}: found shape {tuple(f.shape)}, expected (B, {channels}, H, W); "
            "build MWAD with the channels of the features"
        )
    return f.to(torch.promote_types(dtype, torch.float32))
