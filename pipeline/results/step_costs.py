"""Measures a training step of each row of a comparison: time, peak memory, bytes read from the store.

A row is built by the `setup` of the training loop, in one process with its baseline, and the two step in turn
(a, b, a, b, …), so that disturbances of the machine affect both equally. At most these two are in memory at once.
Decoding is included, and so is the teacher's head where it runs at every step; reading is not, because it happens in
threads ahead of the step. Memory is summed over allocations, not sampled; it repeats within a thousandth, nearly
always to the byte.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.cache.format.codecs import array_bytes
from pipeline.cache.store import Store
from pipeline.devices import resolve_device, wait_for
from pipeline.training.config import TrainConfig
from pipeline.training.loop import clip
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import TrainingRun, setup

ROUNDS = 7  # timed rounds, after one warm-up round
Show = Callable[[int, int], None]  # called with (rows done, all rows)


@dataclass
class RowStepper:
    """A row of the comparison that is ready to take training steps.

    Attributes:
        run: the run, built as for training.
        loaded: the run's first batch, as read from the store (not decoded).
        taken: number of steps taken so far.
    """

    run: TrainingRun
    loaded: Any
    taken: int = 0

    def step(self) -> None:
        """Takes one step as the training loop does; its number follows the run's last one, so every warm-up is over."""
        run, number = self.run, self.run.config.steps + self.taken
        batch = run.stream.to_device(self.loaded)
        run.student.train()
        output = run.student(batch.inputs(run.student))
        losses = run.objective.balanced(run.objective(output, batch, number), number, run.student_parameters)
        run.fabric.backward(losses.total)
        clip(run, batch, number, losses, output)
        run.optimizer.step()
        run.optimizer.zero_grad()
        self.taken += 1
        wait_for(run.fabric.device)


def measure(
    configs: Mapping[str, TrainConfig],
    baselines: Mapping[str, str | None],
    store: Store,
    show: Show = lambda done, rounds: None,
) -> dict[str, dict[str, Any]]:
    """Measures a training step of every row.

    Args:
        configs: label -> configuration of one of the row's runs; a baseline comes before the rows compared with it.
        baselines: label -> label of the row it is compared with, or None.
        store: the opened store of all rows.
        show: called after every row.

    Returns:
        Label -> costs of a step:

        - ``ms_per_step``: median, in milliseconds.
        - ``relative``: median ratio to the baseline's step of the same round; None without a baseline.
        - ``peak_bytes``: see the function ``peak_bytes``.
        - ``reads``: names of the teacher tensors read from the store.
        - ``made``: names of the tensors that the teacher's head computes from them at every step.
        - ``read_bytes``: stored bytes of ``reads`` per record.
    """
    found: dict[str, dict[str, Any]] = {}
    base: tuple[str, RowStepper] | None = None
    for done, (label, config) in enumerate(configs.items(), start=1):
        row = stepper(config, store)
        peak = peak_bytes(row)
        against = base[1] if base and base[0] == baselines[label] else None
        own, others = rounds(row, against)
        found[label] = {
            "ms_per_step": 1000 * statistics.median(own),
            "relative": ratio(own, others) if others else None,
            "peak_bytes": peak,
            "reads": list(row.run.stream.levels),
            "made": list(row.run.stream.made),
            "read_bytes": read_bytes(row.run),
        }
        if label in baselines.values():
            base = label, row
        show(done, len(configs))
    return found


def stepper(config: TrainConfig, store: Store) -> RowStepper:
    alone = config.model_copy(update={"devices": 1, "nodes": 1})  # the cost of a row is that of one process
    run = setup(alone, store, RunFolder(config.folder))
    return RowStepper(run, run.stream.load(0, None))


def rounds(row: RowStepper, against: RowStepper | None) -> tuple[list[float], list[float]]:
    """Times the steps of a row and of its baseline in turn; seconds of each per round, without the warm-up round."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS + 1):
        for one, times in zip((row, against), seconds, strict=True):
            if one:
                start = time.perf_counter()
                one.step()
                times.append(time.perf_counter() - start)
    return seconds[0][1:], seconds[1][1:]


def ratio(own: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


def peak_bytes(row: RowStepper) -> int:
    """Peak bytes of tensors on the device during a row's first two steps; other rows' tensors are not counted.

    The sum of what exists before the steps (weights of student, adapters and teacher's head; on the CPU also the
    batch as read) and of what they add: optimiser state, activations, gradients, and what a method keeps between steps.
    """
    run, device = row.run, row.run.fabric.device
    modules = [m for m in (run.student, run.objective, run.stream.head) if m is not None]
    standing = [t for m in modules for t in (*m.parameters(), *m.buffers())] + list(row.loaded[1].values())
    bytes_by_place = {t.data_ptr(): t.nbytes for t in standing if t.device.type == device.type}

    def two_steps() -> None:
        row.step()
        row.step()

    added = peak_on_gpu(two_steps, device) if device.type == "cuda" else peak_on_cpu(two_steps)
    return sum(bytes_by_place.values()) + added


def peak_on_cpu(work: Callable[[], object]) -> int:
    """Peak bytes of the CPU tensors that ``work`` allocates, summed over the profiler's record of every allocation."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler logs its start and stop on stderr
    gc.collect()  # tensors of earlier work, collected during this one, would count as freed by it
    gc.disable()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            work()
    finally:
        gc.enable()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def peak_on_gpu(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of the tensors that ``work`` allocates on a CUDA device, from the allocator's statistics."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def read_bytes(run: TrainingRun) -> int:
    """Stored bytes per record of the teacher's tensors that the run's stream reads."""
    specs = {name: spec for name, spec in run.stream.specs.items() if name not in ("image", "label")}
    return sum(array_bytes(*spec) for spec in specs.values())


def add_costs(
    comparison: dict[str, Any],
    before: dict[str, Any] | None,
    configs: Mapping[str, TrainConfig],
    store: Store,
    show: Show = lambda done, rounds: None,
) -> None:
    """Adds ``cost`` to every row, and the measurement's device and threads to the comparison; in place.

    Costs are copied from ``before``, the comparison as last saved, if it has those of exactly these rows.
    """
    if before is not None and "cost" in before and identities(before) == identities(comparison):
        found = {row["label"]: row["cost"] for row in before["rows"] if "cost" in row}
        comparison["cost"] = before["cost"]
    else:
        baselines = {row["label"]: row["baseline"] for row in comparison["rows"]}
        found = measure(configs, baselines, store, show)
        device = resolve_device(next(iter(configs.values())).device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        comparison["cost"] = {"rounds": ROUNDS, "device": name, "threads": torch.get_num_threads()}
    for row in comparison["rows"]:
        row["cost"] = found[row["label"]]


def identities(comparison: dict[str, Any]) -> list[Any]:
    """Fields that must be equal for reusing measured costs: store, then label, baseline and first run of each row."""
    return [
        comparison["content_id"],
        *([r["label"], r["baseline"], r["runs"][0]["identity"]] for r in comparison["rows"] if r["runs"]),
    ]
