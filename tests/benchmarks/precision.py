"""Does training in bf16 end where training in float32 ends? Several seeds of each, from the same store.

    python tests/benchmarks/precision.py [--config YAML] [--set A.B=VALUE …] [--steps 200] [--seeds 3] [--json OUT]

Trains every seed in `32-true` and in `bf16-mixed` (default configs/quickstart/train.yaml, whose store
`sward quickstart` makes) into a temporary folder. Of every run two figures: `loss`, the mean total of the last
tenth of the steps, and `val`, the validation metric at the end. `difference` is the mean over seeds of bf16 less
float32, `noise` the standard deviation over seeds in float32: bf16 ends within the noise of seeds where the
difference is no larger.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from pipeline.config import load_config
from pipeline.files import read_json, write_json
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train

PRECISIONS = ("32-true", "bf16-mixed")


def ends(config: TrainConfig) -> dict[str, float]:
    """Where a run ends: mean loss of its last tenth, and the validation metric of its last student."""
    losses: list[float] = []
    folder = train(config, lambda step, steps, logged: losses.append(logged["loss"]))
    last = losses[-max(1, config.steps // 10) :]
    return {"loss": statistics.mean(last), "val": read_json(folder / "run.json")["best_val"]}


def compared(found: dict[str, list[dict[str, float]]], name: str) -> dict[str, Any]:
    """Mean difference of bf16 over seeds, beside the spread over seeds of float32."""
    wide, mixed = ([run[name] for run in found[precision]] for precision in PRECISIONS)
    difference = statistics.mean(mixed) - statistics.mean(wide)
    noise = statistics.stdev(wide)
    return {"difference": difference, "noise": noise, "within": abs(difference) <= noise}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart/train.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds: a spread takes at least 2")
    found: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for precision in PRECISIONS:
                fixed = {"steps": args.steps, "runs": folder, "log_every": 1, "seed": seed, "precision": precision}
                settings = [*args.set, *(f"{k}={v}" for k, v in fixed.items())]
                found[precision].append(ends(load_config(TrainConfig, args.config, settings)))
                print(f"seed {seed}, {precision}: {found[precision][-1]}", flush=True)
    result = {"steps": args.steps, "threads": torch.get_num_threads(), "torch": torch.__version__, "runs": found}
    result |= {name: compared(found, name) for name in ("loss", "val")} | {"load": os.getloadavg()[0]}
    print(json.dumps(result, indent=1))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
