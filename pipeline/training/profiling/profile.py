"""`sward train --profile`: measures the time of each part of a training step, into profile.json and a trace.

The run's result stays the same. After a few warm-up steps, N steps are timed as a whole (phase "undisturbed"), N more
part by part, and a few are traced. Timing parts waits for the GPU at both ends of every part, so they add up to more
than an undisturbed step. Validations, checkpoints and logs are timed in all phases and divided by the number of steps.
A phase begins at a call of the objective, of which there is one per step.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.files import write_json
from pipeline.training.profiling.backward import last_number, watch
from pipeline.training.profiling.parts import RECORDER, WHOLE, Recorder, Spent, part
from pipeline.training.setup import TrainingRun
from sward.contracts import Method

WARM_UP, TRACED = 3, 3  # steps of these phases
SELF = "profiling"  # part with the cost of the profile itself: left out
NAMES = {"backward": "backward: student", "objective": "forward: task, sums"}
PROFILE, TRACE = "profile.json", "trace.json.gz"


@contextmanager
def profiling(run: TrainingRun, first: int, steps: int) -> Iterator[None]:
    """Context in which ``run`` is profiled from its step ``first`` on, with ``steps`` steps per timed phase.

    Raises:
        ValueError: the run has too few steps left.
    """
    needed, left = WARM_UP + 2 * steps + TRACED + 1, run.config.steps - first
    if left < needed:
        raise ValueError(
            f"a profile over {steps} steps takes {needed} steps, the run has {left} left; "
            f"give fewer: --profile {max(1, (left - needed) // 2 + steps)}, or more steps to the run"
        )
    for name in (PROFILE, TRACE):  # files of an earlier session
        (run.folder.path / name).unlink(missing_ok=True)
    profile = Profile(run, first, steps)
    before = RECORDER.set(profile.recorder)
    try:
        yield
    finally:
        RECORDER.reset(before)
        profile.close()


class Profile:
    """Switches a recorder from phase to phase, by hooks on the objective, and writes profile.json and the trace.

    Attributes:
        run: the run.
        first: step at which the profile begins.
        steps: steps per timed phase (N).
        recorder: recorder of the parts.
        taken: calls of the objective so far.
        began: phase -> time of its beginning, in seconds.
    """

    def __init__(self, run: TrainingRun, first: int, steps: int) -> None:
        self.run, self.first, self.steps = run, first, steps
        self.recorder = Recorder(run.fabric.device)
        self.taken, self.began = 0, dict[str, float]()
        self._last_number = -1
        self._tracer = torch.profiler.profile()
        ends = (WARM_UP, WARM_UP + steps, WARM_UP + 2 * steps, WARM_UP + 2 * steps + TRACED)
        self._starts = dict(zip((0, *ends), ("warm-up", "undisturbed", "parts", "traced", "after"), strict=True))
        self._hooks = [
            run.objective.register_forward_pre_hook(self._before),
            run.objective.register_forward_hook(self._after),
            *(hook for name, module in modules(run.objective.method) for hook in timed(self.recorder, name, module)),
        ]

    def _before(self, objective: nn.Module, inputs: Any) -> None:
        if phase := self._starts.get(self.taken):
            self._begin(phase)
        self.taken += 1
        self._last_number = last_number(inputs[0])
        self.recorder.enter("objective")

    def _after(self, objective: nn.Module, inputs: Any, losses: Any) -> None:
        self.recorder.leave()
        if self.recorder.phase == "parts":
            with part(SELF):
                watch(self.recorder, losses.weighted, self._last_number)

    def _begin(self, phase: str) -> None:
        recorder = self.recorder
        recorder.exact = True
        self.began[phase] = recorder.now()
        recorder.phase, recorder.exact, recorder.labelled = phase, phase == "parts", phase == "traced"
        if phase == "traced":
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch reports start and stop on stderr
            self._tracer.start()
        if phase == "after":
            self._tracer.stop()
            self._tracer.export_chrome_trace(str(self.run.folder.path / TRACE))
            self.save()

    def close(self) -> None:
        """Removes the hooks and writes profile.json again, with all of the run's validations and checkpoints."""
        for hook in self._hooks:
            hook.remove()
        if self.recorder.phase == "traced":
            self._tracer.stop()
        if "traced" in self.began:
            self.save()

    def save(self) -> None:
        """Writes profile.json from the times recorded so far."""
        facts = {
            "run": self.run.config.identity(),
            "device": str(self.run.fabric.device),
            "threads": torch.get_num_threads(),
            "steps": self.steps,
            "first_step": self.first + WARM_UP + self.steps,
        }
        write_json(
            self.run.folder.path / PROFILE, facts | summary(self.recorder.spent, self.began, self.steps, self.taken)
        )


def modules(method: Method) -> list[tuple[str, nn.Module]]:
    """Lists a method and its direct submodules by name; for a combination, those of every part."""
    found = [
        (name.removeprefix("_"), child)
        for owner in method.modules()
        if isinstance(owner, Method)
        for name, child in owner.named_children()
        if not isinstance(child, Method)
    ]
    return [("method", method), *found]


def timed(recorder: Recorder, name: str, module: nn.Module) -> list[Any]:
    """Adds hooks that time a module's forward as a part; returns their handles."""
    return [
        module.register_forward_pre_hook(lambda *_: recorder.enter(f"forward: {name}")),
        module.register_forward_hook(lambda *_: recorder.leave()),
    ]


def summary(spent: dict[str, dict[str, Spent]], began: dict[str, float], steps: int, taken: int) -> dict[str, Any]:
    """Computes the table of profile.json: milliseconds per step and share of every part, the largest first.

    Args:
        spent: phase -> part -> time.
        began: phase -> time of its beginning, in seconds.
        steps: steps per timed phase.
        taken: steps over all phases, by which the parts of ``WHOLE`` are divided.
    """
    rare = {name: total(spent, name) for name in WHOLE if total(spent, name).calls}
    each = {name: s.seconds for name, s in spent["parts"].items() if name not in (*WHOLE, SELF)}
    whole = began["traced"] - began["parts"] - seconds(spent["parts"], (*WHOLE, SELF))
    plain = began["parts"] - began["undisturbed"] - seconds(spent["undisturbed"], WHOLE)
    rows = {NAMES.get(name, name): value / steps for name, value in each.items()}
    rows["other"] = max(0.0, whole / steps - sum(rows.values()))
    rows |= {name: s.seconds / taken for name, s in rare.items()}
    every = sum(rows.values())
    return {
        "undisturbed_ms": 1000 * plain / steps,
        "measured_ms": 1000 * whole / steps,
        "parts": [
            {"part": name, "ms": 1000 * value, "share": value / every}
            for name, value in sorted(rows.items(), key=lambda row: -row[1])
        ],
        "now_and_then": {n: {"calls": s.calls, "ms_a_call": 1000 * s.seconds / s.calls} for n, s in rare.items()},
    }


def total(spent: dict[str, dict[str, Spent]], name: str) -> Spent:
    """Sums a part over all phases."""
    found = [phase[name] for phase in spent.values() if name in phase]
    return Spent(sum(s.seconds for s in found), sum(s.calls for s in found))


def seconds(phase: dict[str, Spent], names: tuple[str, ...]) -> float:
    """Sums the seconds of the named parts in one phase."""
    return sum(phase[name].seconds for name in names if name in phase)
