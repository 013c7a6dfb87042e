"""Does training while extracting pay? Seconds to the first trained step and to the end, in both ways.

    python tests/benchmarks/beside.py [--config configs/quickstart/train.yaml] [--set A.B=VALUE …] [--repetitions 3]
                                      [--folder FOLDER] [--json OUT]

two stages   `sward extract`, then `sward train`
beside       `sward train --extract`

Both are commands of their own, in a fresh folder each time, and take turns. The first step counts as trained when its
line is in metrics.jsonl. Both train with order: shards, and statistics of the first shards where the method reads
them, so the students must be equal: the weights are compared bit for bit. On one CPU both stages share its cores, so
the end can hardly come earlier; with the teacher on a GPU and the student on another (--set cache.device=cuda:1), it
can by the shorter of both stages.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.config import load_config
from pipeline.files import write_json
from pipeline.training.config import TrainConfig
from pipeline.yaml_files import dump_yaml

POLL_SECONDS = 0.02
WAYS = ("two stages", "beside")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def measure(way: str, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Seconds of one way in a new folder, and the digest of its student."""
    cache = config.cache.model_copy(update={"store": str(folder / "store.zarr")})
    run = config.model_copy(update={"cache": cache, "runs": str(folder / "runs"), "log_every": 1})
    for name, part in (("cache", cache), ("train", run)):
        (folder / f"{name}.yaml").write_text(dump_yaml(part.model_dump(mode="json")))
    commands = [command("train", folder / "train.yaml", "--extract")]
    if way == "two stages":
        commands = [command("extract", folder / "cache.yaml"), command("train", folder / "train.yaml")]
    began, first, extracted = time.monotonic(), 0.0, 0.0
    with (folder / "output.txt").open("w") as output:
        for each in commands:
            process = subprocess.Popen(each, stdout=output, stderr=output)
            while process.poll() is None:
                log = run.folder / "metrics.jsonl"
                first = first or (log.is_file() and log.stat().st_size > 0 and time.monotonic() - began) or 0.0
                time.sleep(POLL_SECONDS)
            if process.returncode:
                raise SystemExit((folder / "output.txt").read_text())
            extracted = extracted or time.monotonic() - began
    student = hashlib.sha256((run.folder / "student.safetensors").read_bytes()).hexdigest()
    seconds = {"first_step": round(first, 2), "end": round(time.monotonic() - began, 2)}
    return seconds | {"extracted": round(extracted, 2), "student": student}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and ranges over the repetitions."""
    values = {name: [one[name] for one in found] for name in ("first_step", "end")}
    return {f"{name}_s": statistics.median(v) for name, v in values.items()} | {
        f"{name}_range_s": [min(v), max(v)] for name, v in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart/train.yaml"))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where stores and runs are written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    order = ["order.kind=shards", "order.statistics=first"]
    config = load_config(TrainConfig, args.config, [*order, *args.set])
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for repetition in range(args.repetitions):
        for way in WAYS if repetition % 2 == 0 else reversed(WAYS):
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                found[way].append(measure(way, config, Path(folder)))
    students = {one["student"] for ones in found.values() for one in ones}
    facts: dict[str, Any] = {"config": str(args.config), "set": args.set, "repetitions": args.repetitions}
    facts |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "equal": len(students) == 1}
    facts |= {"extract_s": statistics.median(one["extracted"] for one in found["two stages"])}
    figures = {way: summary(ones) for way, ones in found.items()}
    print(f"{args.config}, {args.repetitions} repetitions; extraction alone {facts['extract_s']:.1f} s")
    for way, f in figures.items():
        print(f"{way:10}  first step after {f['first_step_s']:7.1f} s   end after {f['end_s']:7.1f} s")
    print("students equal bit for bit" if facts["equal"] else "STUDENTS DIFFER")
    if args.json:
        write_json(args.json, facts | {"ways": figures})


if __name__ == "__main__":
    main()
