"""Multi-Scale Windowed Attention Distillation (MWAD), paper Sec. 3.1, Eq. 1-15.

Teacher and student maps are resized to one grid and cut into the same windows. In each window the student's attention
matrix (Eq. 11), values (Eq. 12) and contexts, the product of the two (Eq. 13), are trained to match the teacher's. The
windows shift every step, so that their borders differ from step to step.

Queries, keys and values are 1x1 convolutions of the maps (Eq. 8). The letters (A)-(M) in ``MWADConfig`` mark choices
that the paper leaves open; ``preset: paper`` follows its text literally. Levels of several teachers (``tiny:s16``) are
paired, drawn and averaged teacher by teacher, as if each were alone, and the teachers' terms are added.

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
from sward.levels import own_name, teacher_of
from sward.mwad.attention_terms import plain_terms, relate_teacher
from sward.mwad.config import MWADConfig
from sward.mwad.fused_attention_terms import fused_terms
from sward.mwad.monitors import relational_signal
from sward.mwad.projections import Projections
from sward.mwad.stages import Features, added, checked_map, mean_of, stage_names
from sward.mwad.windows import Windows, draw_offset, draw_windows
from sward.sent import sent


class MWAD(nn.Module):
    """Distillation terms of all stages, with the projections that they need.

    Everything is computed in float32 (float64 in a float64 module), also under autocast. With ``teacher_proj:
    frozen``, phi and Theta_t are parameters without gradient. Gradients never reach the teacher's features.

    Attributes:
        pairs: (teacher level, student level) of every stage, shallow to deep.
        names: name of every stage: its teacher level, or ``s16>s8`` where a teacher level has several pairs.
        sides: window side M of every stage, in cells.
        stages: name -> the pair's ``Projections``.
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
        self.names = stage_names(self.pairs)
        self.sides = config.window if isinstance(config.window, list) else [config.window] * len(self.pairs)
        if len(self.sides) != len(self.pairs):
            raise ValueError(
                f"mwad.window has {len(self.sides)} sides for {len(self.pairs)} stages {self.pairs}; "
                "give one side for all stages, or one per stage"
            )
        if config.teacher_proj == "aux" and num_classes is None:
            raise ValueError("teacher_proj 'aux' classifies V_t, but num_classes is None: give num_classes")
        self.stages = nn.ModuleDict(
            {
                name: Projections(teacher_channels[t], student_channels[s], config, num_classes, name)
                for name, (t, s) in zip(self.names, self.pairs, strict=True)
            }
        )
        self.register_buffer("prepared", torch.tensor(False))
        self.reset(seed=0)

    def reset(self, seed: int) -> None:
        """Draws new initial projections from ``seed`` and discards what ``prepare`` has fitted."""
        for name in self.names:
            self._projections(name).reset(seed)
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
        for i, side in enumerate(self.sides):
            f_t = self._teacher_map(features, i)
            known = None if statistics is None else statistics[self.pairs[i][0]]
            self._projections(self.names[i]).prepare(f_t, known, min(side, *f_t.shape[-2:]))
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
        """Computes the unweighted terms of one step, each the mean over a teacher's stages (Eq. 15).

        Args:
            teacher: level -> (B, C_t, H, W), any floating type.
            student: level -> (B, C_s, H, W), any floating type.
            seed: the run's seed; seed, step and level determine the windows' offsets, and which are compared.
            step: number of the training step.
            labels: (B, H, W) int64, read by ``teacher_proj: aux`` only.
            offsets: name of a stage -> (dx, dy) in cells, in place of random offsets.

        Returns:
            Scalars ``attn`` (Eq. 11), ``value`` (Eq. 12) and ``context`` (Eq. 13), those that ``config.terms``
            selects, of several teachers the sums over them; with ``teacher_proj: aux`` also ``aux``.

        Raises:
            ValueError: a level is missing, has other channels than the module was built for, or aux has no labels;
                batch sizes differ; an offset is of an unknown level or outside the map.
            RuntimeError: ``prepare`` has not been called.
        """
        self._require_prepared()
        self._check_inputs(teacher, student, offsets or {})
        by_teacher: dict[str, list[dict[str, Tensor]]] = {}
        with torch.autocast(next(iter(student.values())).device.type, enabled=False):
            for i, name in enumerate(self.names):
                f_t, f_s = self._teacher_map(teacher, i).detach(), self._student_map(student, i)
                windows = self._windows(i, f_t, f_s.shape[-2:], (offsets or {}).get(name), seed, step)
                parts, masks = (self._projections(name), f_t, f_s, windows), self._masks(windows, f_t)
                chosen = draw_windows(self.config.window_share, windows.count, seed, step, own_name(name))
                chosen = None if chosen is None else sent(chosen, f_s.device)
                if self.config.teacher_proj == "frozen":
                    terms = fused_terms(*parts, *masks, chosen)
                else:
                    terms = plain_terms(*parts, *masks, labels, chosen)
                by_teacher.setdefault(teacher_of(name), []).append(terms)
        return added([mean_of(stages) for stages in by_teacher.values()])

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
            Name of a stage -> monitors by name.
        """
        by_stage = {}
        for i, name in enumerate(self.names):
            f_t = self._teacher_map(teacher, i)
            windows = self._windows(i, f_t, sizes[self.pairs[i][1]], None, seed, step)
            visible, valid = self._masks(windows, f_t)
            logA_t, V_t = relate_teacher(self._projections(name), f_t, windows, visible)
            by_stage[name] = relational_signal(logA_t, V_t, visible, valid)
        return by_stage

    def _projections(self, name: str) -> Projections:
        return cast(Projections, self.stages[name])

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
        dx, dy = offset or draw_offset(self.config.shift, side, seed, step, own_name(self.names[i]))
        return Windows(H, W, side, dx, dy, self.config.roll == "after_padding")

    def _check_inputs(self, teacher: Features, student: Features, offsets: Mapping[str, tuple[int, int]]) -> None:
        """Raises ValueError if batch sizes differ, or offsets are of unknown levels."""
        maps = {f"teacher {t}": teacher[t] for t, _ in self.pairs if t in teacher}
        maps |= {f"student {s}": student[s] for _, s in self.pairs if s in student}
        if len({len(f) for f in maps.values()}) > 1:
            found = ", ".join(f"{name}: {len(f)}" for name, f in maps.items())
            raise ValueError(f"found batches of different sizes ({found}); pass features of the same images")
        if unknown := sorted(set(offsets) - set(self.stages)):
            raise ValueError(f"found offsets of {unknown}, expected teacher levels of {self.names}: correct them")

    def _masks(self, windows: Windows, f: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return windows.masks(self.config.mask_padding, self.config.seam_mask, f.device)

    def _teacher_map(self, features: Features, i: int) -> Tensor:
        stage = self._projections(self.names[i])
        return checked_map(features, self.pairs[i][0], stage.phi.in_channels, "teacher", stage.mean.dtype)

    def _student_map(self, features: Features, i: int) -> Tensor:
        stage = self._projections(self.names[i])
        return checked_map(features, self.pairs[i][1], stage.theta_s.in_channels, "student", stage.mean.dtype)

    def _require_prepared(self) -> None:
        if not self._ready and not self.prepared:  # read the buffer only once: that waits for the device
            raise RuntimeError(
                "MWAD is not prepared: call prepare(features) once before the first step, or load the state_dict of "
                "a prepared module"
            )
        self._ready = True
