"""CIRKD: matches the similarities of pixels (v2: and channels) across images and to a memory of earlier ones."""

# B batch, K classes, C channels, H W height and width

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sward.align import labels_on_grid
from sward.contracts import HEAD_TENSORS, IGNORE, Batch, Channels, StudentOutput
from sward.methods.base import FeatureConfig, FeatureMethod, TensorName, apply, conv, grid, initialise, tensors
from sward.methods.cirkd.adapters import Projection, SelfAttention
from sward.methods.cirkd.config import CIRKDQueues, CIRKDWeights
from sward.methods.cirkd.queues import ChannelQueue, ClassQueues, Draws, first_permuted
from sward.methods.cirkd.relations import channels, pair_kl, pixels, pool, queue_kl
from sward.methods.cirkd.target import CHANNEL_POOL, Target
from sward.methods.kd import both_logits, logit_kl

V1 = ("pairs", "pixel", "region")
V2 = (*V1, "hint", "channel_pairs", "channel_memory", "channel_mse")
MEMORIES = ("pixel", "region", "channel_memory")
NOT_PREPARED, NOTHING_FILED = -2, -1  # of ``filed``


class CIRKDConfig(FeatureConfig):
    """Version, weights, temperatures, queues and pooling."""

    kind: Literal["cirkd"] = Field(default="cirkd", description="Cross-image relations of pixels, v2 also of channels.")
    version: Literal["v1", "v2"] = Field(default="v1", description="v2 adds FitNet and the three channel terms.")
    level: TensorName = Field(
        default="penultimate",
        description="What is related: the map before the classifier (the authors'), or, without a teacher head and "
        "then without the term kd, a trunk level.",
    )
    weights: CIRKDWeights = Field(default=CIRKDWeights(), description="Weight of every term.")
    queues: CIRKDQueues = Field(default=CIRKDQueues(), description="Sizes of the memories.")
    tau: float = Field(default=0.1, gt=0, description="Temperature of similarities.")
    kd_tau: float = Field(default=1.0, gt=0, description="Temperature of kd; the memory terms apply it on top of tau.")
    pool: Literal["auto", 1, 2, 4] = Field(
        default="auto",
        description="Side of the means taken before `pairs`, whose cost falls with its fourth power: 1 none, 2 (v1's "
        "option), 4. auto, as in the code: 4 in v2 where H and W reach 256, else 1.",
    )
    pixel_queue: Literal["fixed", "as_code"] = Field(
        default="fixed", description="Pixels of the class enter, or those the authors' code takes by mistake."
    )

    @property
    def terms(self) -> dict[str, float]:
        """Names and weights of this version's terms at this level, without those of weight 0."""
        names = ("kd",) * (self.level in HEAD_TENSORS) + (V1 if self.version == "v1" else V2)
        return {name: weight for name in names if (weight := getattr(self.weights, name)) > 0}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.terms:
            raise ValueError(
                f"weights: every term of {self.version} at level {self.level} has weight 0, so nothing would be "
                "distilled: give one a weight (kd needs a head's level, v2 has more terms), or use kind: plain"
            )
        return self

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "CIRKD":
        """The method for this teacher and student. Raises ValueError where a tensor is missing."""
        return CIRKD(self, teacher, tensors(student, num_classes, penultimate), num_classes)


class CIRKD(FeatureMethod):
    """Compares relations instead of values: how similar a vector is to those of other images and of a memory.

    Vectors have length 1. A row of similarities / tau goes through a softmax, and KL(T || S) compares the teacher's row
    with the student's: sum over columns, mean over rows. Every term but ``kd``, ``hint`` and ``channel_mse`` is one.

    Terms (left out at weight 0; from ``hint`` on v2 alone):
        kd: as method ``kd``, with temperature kd_tau.
        pairs: each pixel of image a against all pixels of image b, mean over all ordered pairs; no projection.
        pixel, region: each labelled pixel of the teacher, and of the projected student, against the same n positions
        of every class's queue; times kd_tau^2.
        hint: mean (hint(gcn(f_s)) - f_t)^2.
        channel_pairs, channel_memory, channel_mse: of 4x4 means, the student's projected: each channel against those
        of image b; against the queue's; and the mean squared difference.
    Paper and code:
        Yang et al., CVPR 2022 (v1), and its extension (v2). winycg/CIRKD 2d8ad0f, dab64db has no licence: written from
        the formulas alone.
    Differences:
        The code's pixel queue holds pixels of any class (``pixel_queue: as_code``). No formula says whether pooling
        comes before the projection (here it does), nor how wide ``gcn.out`` is (here C_s).
    Reads:
        ``penultimate`` and ``logits`` (a fitted head) and labels; or one trunk level and labels, without ``kd``. The
        student is resized bilinearly to the teacher's grid (the authors' sizes are equal). v2's channel queue needs
        maps of the size seen at ``prepare``.
    Random draws:
        The first numbers of ``seeds.permutation(n, seed, "cirkd", step, *what)``; K classes. Per image i and class k
        present: what = ("filing", i, k), n the class's positions, ``pixels_per_class`` numbers. ("pixel",),
        ("region",): n a class's queue, samples // K + 1. v2: ("channel filing",): n = B C_t, ``channels_per_step``;
        ("channel",): n the queue, ``channel_samples``. At ``prepare``, class k's queue ("pixel" or "region"; "channel"
        with k = 0): normalised rows of torch.randn(size, length), generator seeded with torch_seed(seed, "cirkd",
        queue, k). ``enqueue`` and ``relations`` take the draws as ``queues.Draws``, and the teacher as
        ``target.Target(f_t, y)``.
    Parameters and buffers:
        ``project``: ``first.weight`` (C_t, C_s, 1, 1), ``second.weight`` (C_t, C_t, 1, 1), ``norm.weight``,
        ``norm.bias`` (C_t,). v2: ``project_channels`` likewise; with d = max(1, C_s // 2) ``gcn.query``, ``gcn.key``,
        ``gcn.value`` (d, C_s, 1, 1), ``gcn.out`` (C_s, d, 1, 1), ``gcn.join`` (C_s, 2 C_s, 1, 1) on [f_s; a],
        ``weight`` each; ``gcn.norm_out``, ``gcn.norm_join`` (C_s,), ``weight`` and ``bias`` each; ``hint.weight`` (C_t,
        C_s, 1, 1). Buffers: ``queues.pixel``, ``queues.region`` (K, size, C_t), ``queues.next`` (2, K),
        ``channel_queue.ring`` (size, positions), ``channel_queue.next`` (), ``filed`` (): the last step whose batch was
        filed. A batch is filed before it is compared, once a step: steps up to ``filed``, also of a loaded state, leave
        the queues as they are; set it to -1 to number steps anew.

    Raises:
        RuntimeError: at a call, if a term has a memory that neither ``prepare`` nor a loaded state has filled.
    """

    label_terms = ("pixel", "region")
    order_invariant = False  # draws and places in the queues go by the place in the batch
    filed: Tensor

    def __init__(self, config: CIRKDConfig, teacher: Channels, student: Channels, num_classes: int) -> None:
        super().__init__(config, teacher, student)
        self.config = config
        C_s, C_t = self.student_channels, self.teacher_channels
        self.weights |= config.terms
        self.add_logits("kd", self.weights.get("kd", 0), teacher)
        if self.weights.keys() & {"pixel", "region"}:
            self.project, self.queues = Projection(C_s, C_t), ClassQueues(num_classes, C_t, config.queues)
        if self.weights.keys() & {"channel_pairs", "channel_memory", "channel_mse"}:
            self.project_channels = Projection(C_s, C_t)
        if "channel_memory" in self.weights:
            self.channel_queue = ChannelQueue(config.queues.channel)
        if "hint" in self.weights:
            self.gcn, self.hint = SelfAttention(C_s), conv(C_s, C_t, bias=False)
        self.num_classes = num_classes
        self.latest = NOT_PREPARED  # as ``filed``, without waiting for the device
        self.register_buffer("filed", torch.tensor(self.latest))
        initialise(self, seed=0)

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Draw adapters and queues from the run's seed; v2's channel queue takes the size of the batch's maps."""
        super().prepare(batch, statistics)
        if self.weights.keys() & {"pixel", "region"}:
            self.queues.reset(batch.seed)
        if "channel_memory" in self.weights:
            maps = pool(batch.features[self.teacher_level][:1], CHANNEL_POOL)
            self.channel_queue.reset(batch.seed, maps[0, 0].numel())
        self._set_filed(NOTHING_FILED)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = super().forward(output, batch, step)
        if "kd" in self.weights:
            found["kd"] = logit_kl(*both_logits(output, batch), self.config.kd_tau)
        return found

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        if self.latest == NOT_PREPARED and self.weights.keys() & set(MEMORIES):
            raise RuntimeError(
                "CIRKD's queues are empty: call prepare(batch, statistics) once before the first step, or load a state "
                "that was prepared"
            )
        target = Target(f_t, labels_on_grid(batch.labels, grid(f_t)))
        draws = self.draw(target, batch.seed, step)
        if step > self.latest:
            self.enqueue(target, draws)
            self._set_filed(step)
        return self.relations(f_s, target, draws)

    def draw(self, target: Target, seed: int, step: int) -> Draws:
        """Random numbers of the step: a function of (seed, step) and of which labels are where."""
        sizes, K = self.config.queues, self.num_classes

        def first(count: int, of: int, *what: int | str) -> Tensor:
            return first_permuted(count, of, seed, "cirkd", step, *what)

        per_class = sizes.pixels_per_class
        filing = [first(per_class, len(index), "filing", image, k) for image, k, index in target.places]
        return Draws(
            filing,
            first(sizes.pixel_samples // K + 1, sizes.pixel, "pixel"),
            first(sizes.region_samples // K + 1, sizes.region, "region"),
            first(sizes.channels_per_step, target.f.shape[0] * target.f.shape[1], "channel filing"),
            first(sizes.channel_samples, sizes.channel, "channel"),
        )

    def enqueue(self, target: Target, draws: Draws) -> None:
        """Add the teacher's vectors to the queues, under their labels."""
        if self.weights.keys() & {"pixel", "region"}:
            per_class, rule = self.config.queues.pixels_per_class, self.config.pixel_queue
            self.queues.enqueue(target.pixels, target.places, draws.filing, per_class, rule)
        if "channel_memory" in self.weights:
            self.channel_queue.enqueue(target.channels, draws.channel_filing)

    def relations(self, f_s: Tensor, target: Target, draws: Draws) -> dict[str, Tensor]:
        """All terms but ``kd``, of the student (B, C_s, H, W) on the target's grid, for given draws."""
        found = {}
        if "pairs" in self.weights:
            side = self._side(target.f)
            x_t = target.pixels if side == 1 else pixels(pool(target.f, side))
            found["pairs"] = pair_kl(pixels(pool(f_s, side)), x_t, self.config.tau)
        if "hint" in self.weights:
            found["hint"] = (apply(self.hint, self.gcn(f_s)) - target.f).square().mean()
        return found | self._to_classes(f_s, target, draws) | self._of_channels(f_s, target, draws)

    def _to_classes(self, f_s: Tensor, target: Target, draws: Draws) -> dict[str, Tensor]:
        names = [name for name in ("pixel", "region") if name in self.weights]
        if not names:
            return {}
        x_s, x_t, counted = pixels(self.project(f_s)), target.pixels, (target.y != IGNORE).flatten(1)
        memories = {name: self.queues.sampled(name, getattr(draws, name)).to(x_t.dtype) for name in names}
        temperatures = self.config.tau, self.config.kd_tau
        return {name: queue_kl(x_s, x_t, memory, *temperatures, counted) for name, memory in memories.items()}

    def _of_channels(self, f_s: Tensor, target: Target, draws: Draws) -> dict[str, Tensor]:
        names = self.weights.keys() & {"channel_pairs", "channel_memory", "channel_mse"}
        if not names:
            return {}
        x_s, x_t = channels(self.project_channels(pool(f_s, CHANNEL_POOL))), target.channels
        found = {}
        if "channel_pairs" in names:
            found["channel_pairs"] = pair_kl(x_s, x_t, self.config.tau)
        if "channel_memory" in names:
            memory = self.channel_queue.sampled(draws.channel).to(x_t.dtype)
            found["channel_memory"] = queue_kl(x_s, x_t, memory, self.config.tau, self.config.kd_tau)
        if "channel_mse" in names:
            found["channel_mse"] = (x_s - x_t).square().mean()
        return found

    def _side(self, f_t: Tensor) -> int:
        if self.config.pool != "auto":
            return self.config.pool
        return 4 if self.config.version == "v2" and min(f_t.shape[-2:]) >= 256 else 1

    def _set_filed(self, step: int) -> None:
        self.latest = step
        self.filed.fill_(step)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        self.latest = int(self.filed)
