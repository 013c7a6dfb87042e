"""What a codec's rounding does to training: every loss term from the store against the teacher in the loop.

    python tests/benchmarks/rounding.py [--config YAML] [--set A.B=VALUE …] [--stores ZARR …]
                                        [--rates 1e-12 1e-5 2e-3] [--steps 50] [--json OUT]

Trains a configuration (default configs/train/clinicdb-unext-sward-128-cpu.yaml, and its store) for some steps from each
store and with `teacher: online` on the same views, at each learning rate. A figure is the largest relative difference
of a term over the steps, by term. At a rate of 1e-12 the weights stay what they are: the effect of the rounding alone.
At a real rate training amplifies any difference: row `threads` has the same store read twice, once with one thread and
once with two, which differ in the last digits of sums.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from pipeline.cache.store import Store
from pipeline.config import load_config
from pipeline.files import write_json
from pipeline.paths import read_path
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train

Terms = list[dict[str, float]]


def terms(config: TrainConfig, threads: int = 1) -> Terms:
    """Of every step, in a folder that is not kept."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="sward-rounding-") as runs:
        folder = train(config.model_copy(update={"runs": runs}))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k.removeprefix("term/"): v for k, v in x.items() if k.startswith("term/")} for x in lines if "loss" in x]


def largest(one: Terms, other: Terms) -> dict[str, float]:
    """Largest relative difference over the steps, by term."""
    return {k: max(abs(a[k] - b[k]) / max(abs(b[k]), 1e-30) for a, b in zip(one, other, strict=True)) for k in one[0]}


def of_store(config: TrainConfig, store: str, rate: float, steps: int) -> tuple[str, TrainConfig]:
    """(its codec, the training from it)."""
    values, recorded = config.model_dump(mode="json"), Store(read_path(store)).plans[-1]["config"]
    values["cache"] = recorded | {"store": store}
    values["optimizer"]["lr"] = rate
    values |= {"steps": steps, "log_every": 1, "signal_every": 0, "checkpoint_every": 10**6, "name": "rounding"}
    return recorded["codec"]["kind"], TrainConfig.model_validate(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/train/clinicdb-unext-sward-128-cpu.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--stores", nargs="+", help="default: the configuration's")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-12, 1e-5, 2e-3])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config, args.set)
    facts: dict[str, Any] = {"config": args.config, "set": args.set, "steps": args.steps, "rows": []}
    facts |= {"torch": torch.__version__}
    for rate in args.rates:
        for store in args.stores or [config.cache.store]:
            codec, cached = of_store(config, store, rate, args.steps)
            from_store = terms(cached)
            rows = {codec: largest(from_store, terms(cached.model_copy(update={"teacher": "online"})))}
            if store == (args.stores or [config.cache.store])[0]:
                rows["threads"] = largest(from_store, terms(cached, threads=2))
            for name, found in rows.items():
                facts["rows"].append({"lr": rate, "row": name, "largest": found})
                print(f"lr {rate:g} {name:8} " + ", ".join(f"{k} {v:.1e}" for k, v in found.items()), flush=True)
    if args.json:
        write_json(args.json, facts)


if __name__ == "__main__":
    main()
