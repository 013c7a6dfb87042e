"""Does a long run stay as it began? Memory and step time over thousands of steps.

    python tests/benchmarks/sustained.py [--config YAML] [--set A.B=VALUE …] [--steps N] [--every N] [--json OUT]

Trains for N steps (default 2,000) of a configuration (default configs/quickstart/train.yaml, whose store
`sward quickstart` makes) into a temporary folder, with a checkpoint every --every steps (default 200) and a validation
every other time, and samples after every step: resident memory (Linux), the clock, and the processor's time of this
process. Steps with a validation, a checkpoint or a measurement of the signal are left out of the times.

    growth_mb_per_1000   slope of a least-squares line through resident memory after the first quarter
    drift                median step time of the last quarter over that of the second, less 1
    cpu_drift            the same of the processor's time, which other work on the machine disturbs less
    checkpoint_ms        what a checkpoint adds to a step (median over those without a validation)
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import load_config
from pipeline.files import write_json
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train

PAGE = resource.getpagesize()


def resident_mb() -> float:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def sample(config: TrainConfig) -> dict[str, np.ndarray]:
    """Name -> value after every step of the run: resident MB, seconds on the clock, seconds of the processor."""
    found = {name: np.zeros(config.steps) for name in ("memory", "clock", "cpu")}

    def show(step: int, steps: int, logged: dict[str, float]) -> None:
        values = {"memory": resident_mb(), "clock": time.perf_counter(), "cpu": time.process_time()}
        for name, value in values.items():
            found[name][step - 1] = value

    train(config, show)
    return found


def ordinary(config: TrainConfig) -> np.ndarray:
    """Which of the steps 1 … N-1 had neither a checkpoint or validation before them nor measured the signal."""
    steps = np.arange(1, config.steps)
    plain = steps % config.checkpoint_every != 0
    return plain & (steps % config.signal_every != 0) if config.signal_every else plain


def by_quarter(seconds: np.ndarray, plain: np.ndarray) -> list[float]:
    """Median milliseconds of the ordinary steps of every quarter of the run."""
    parts = np.array_split(np.arange(len(seconds)), 4)
    return [1000 * float(np.median(seconds[part][plain[part]])) for part in parts]


def summary(config: TrainConfig, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of the docstring. A step's time begins where the step before is logged, so what that one did
    afterwards (checkpoint, validation) counts."""
    steps, plain, quarter = np.arange(1, config.steps), ordinary(config), config.steps // 4
    wall, cpu = np.diff(found["clock"]), np.diff(found["cpu"])
    saved = ~plain & (steps % config.checkpoint_every == 0) & (steps % config.eval_every != 0)
    memory, late = found["memory"], np.arange(quarter, config.steps)
    walls, cpus = by_quarter(wall, plain), by_quarter(cpu, plain)
    return {
        "steps": config.steps,
        "threads": torch.get_num_threads(),
        "ms_by_quarter": walls,
        "cpu_ms_by_quarter": cpus,
        "drift": walls[3] / walls[1] - 1,
        "cpu_drift": cpus[3] / cpus[1] - 1,
        "resident_mb": {"first_step": memory[0], "after_a_quarter": memory[quarter], "end": memory[-1]},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "growth_mb_per_1000": 1000 * float(np.polyfit(late, memory[late], 1)[0]),
        "checkpoint_ms": 1000 * float(np.median(wall[saved]) - np.median(wall[plain])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart/train.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.steps < 4 * args.every:
        parser.error(f"--steps {args.steps} leaves a quarter without an ordinary stretch; give at least 4 × --every")
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        fixed = {"steps": args.steps, "runs": folder, "log_every": 1, "eval_every": 2 * args.every}
        settings = [*args.set, *(f"{k}={v}" for k, v in fixed.items()), f"checkpoint_every={args.every}"]
        config = load_config(TrainConfig, args.config, settings)
        found = summary(config, sample(config)) | {"load": [before, os.getloadavg()[0]]}
    print(json.dumps(found, indent=1))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
