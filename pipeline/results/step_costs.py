"""What a training step of every row of a comparison costs: time, memory, and what it reads from the store.

A row is built by the loop's own `setup`, in one process with its baseline, and both step in turn (a, b, a, b, …): what
disturbs the machine disturbs both alike. No more than these two are in memory at once. Reading is left out (it runs
ahead of the step, in threads); decoding is in, and so is a teacher's head run at every step. Memory is counted, not
sampled, and repeats to the byte.
"""

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

ROUNDS = 7  # timed; one more before them warms up
Show = Callable[[int, int], None]


@dataclass
class RowStepper:
    """A row that is ready to step: built as for training; ``loaded``: its first batch as read from the store."""

    run: TrainingRun
    loaded: Any
    taken: int = 0

    def step(self) -> None:
        """One step as in the loop; numbered after the run's last one, so past every warm-up."""
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
    """Label -> cost of the row's step.

    Args:
        configs: label -> configuration of one of the row's runs; a baseline comes before the rows compared with it.
        baselines: label -> label of the row it is compared with, or None.
        store: the opened store of all of them.
        show: called after every row.

    Returns:
        ``ms_per_step``: median. ``relative``: median ratio to the baseline's step of the same round (None without
        a baseline). ``peak_bytes``: see ``peak_bytes``. ``reads``: teacher tensors read from the store, of
        ``read_bytes`` a record. ``made``: those that the teacher's head makes of them at every step.
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
    alone = config.model_copy(update={"devices": 1, "nodes": 1})  # what a row costs is one process's step
    run = setup(alone, store, RunFolder(config.folder))
    return RowStepper(run, run.stream.load(0, None))


def rounds(row: RowStepper, against: RowStepper | None) -> tuple[list[float], list[float]]:
    """Seconds of the row's steps, and of the baseline's in the same rounds; the warm-up round is not among them."""
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
    """Bytes of tensors on the device at the fullest moment of a row's first two steps; other rows are not counted.

    What stands before them (weights of student, adapters and teacher's head, on the CPU the batch as read) and what
    they add: optimiser state, activations, gradients, and what a method keeps from one step to the next.
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
    """Most bytes of tensors alive at once that ``work`` allocated: torch's own record of every allocation, summed."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler reports its start and stop on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def peak_on_gpu(work: Callable[[], object], device: torch.device) -> int:
    """The same on a CUDA device, from its allocator."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def read_bytes(run: TrainingRun) -> int:
    """Stored bytes a record of the teacher's tensors, as the stream reads them."""
    specs = {name: spec for name, spec in run.stream.specs.items() if name not in ("image", "label")}
    return sum(array_bytes(*spec) for spec in specs.values())


def add_costs(
    comparison: dict[str, Any],
    before: dict[str, Any] | None,
    configs: Mapping[str, TrainConfig],
    store: Store,
    show: Show = lambda done, rounds: None,
) -> None:
    """Give every row its ``cost``, and the comparison what was measured on; in place.

    Taken from ``before``, the comparison as last saved, where that has the costs of these very rows.
    """
    if before is not None and "cost" in before and identities(before) == identities(comparison):
        found, comparison["cost"] = {row["label"]: row["cost"] for row in before["rows"]}, before["cost"]
    else:
        baselines = {row["label"]: row["baseline"] for row in comparison["rows"]}
        found = measure(configs, baselines, store, show)
        device = resolve_device(next(iter(configs.values())).device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        comparison["cost"] = {"rounds": ROUNDS, "device": name, "threads": torch.get_num_threads()}
    for row in comparison["rows"]:
        row["cost"] = found[row["label"]]


def identities(comparison: dict[str, Any]) -> list[Any]:
    return [
        comparison["content_id"],
        *([r["label"], r["baseline"], r["runs"][0]["identity"]] for r in comparison["rows"]),
    ]
