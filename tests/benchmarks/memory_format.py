"""Which order of maps in memory is faster: training steps of students in both, behind `channels_last: auto`.

    python tests/benchmarks/memory_format.py [--students unext … | --students configs/students/*.yaml] [--size 128]
                                             [--batch 4] [--repetitions 7] [--threads N] [--cpu-time] [--device cuda]
                                             [--json OUT]

A step is forward, cross-entropy and backward of a student on synthetic images, in float32. The two orders take turns
within a repetition; `ratio` is the median over repetitions of channels-last / usual, below 1 where it is faster.
"""

import argparse
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from roofline import clock_of, seconds
from step import make_batch, step

from pipeline.files import write_json
from pipeline.memory import keep_freed_memory
from pipeline.yaml_files import read_yaml_text
from sward.methods.plain import PlainConfig
from sward.objective import Objective
from sward.students import StudentConfig, build_student

OWN: dict[str, dict[str, Any]] = {
    "unext": {"kind": "unext"},
    "resunetpp": {"kind": "resunetpp"},
    "deeplabv3": {"kind": "deeplabv3"},
    "deeplabv3plus": {"kind": "deeplabv3plus"},
    "unet-resnet18": {"kind": "smp", "architecture": "unet", "encoder": "resnet18"},
}
SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "students").glob("*.yaml"))


def settings(name: str) -> dict[str, Any]:
    """A student's configuration, by its name here or from a file."""
    found: dict[str, Any] = OWN.get(name) or read_yaml_text(Path(name).read_text())
    return found


def measure(args: argparse.Namespace, name: str) -> dict[str, float]:
    clock, device = clock_of(args.device, args.cpu_time), torch.device(args.device)
    config = TypeAdapter(StudentConfig).validate_python(settings(name))
    usual, last = (build_student(config, 2, 0).to(device) for _ in range(2))
    last.to(memory_format=torch.channels_last)
    batch = make_batch(args.size, args.batch, {}, device)
    objective = Objective(PlainConfig().build({}, usual.channels, 2, usual.classifier.in_channels)).to(device)
    taken: tuple[list[float], list[float]] = [], []
    for repetition in range(-1, args.repetitions):  # -1 warms up and isn't counted
        for student, times in zip((usual, last), taken, strict=True):
            spent = seconds(partial(step, student, objective, batch, 0, False), clock)
            times += [spent] if repetition >= 0 else []
    ratios = [b / a for a, b in zip(*taken, strict=True)]
    ms = [1e3 * statistics.median(times) for times in taken]
    return {"usual_ms": ms[0], "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=[*OWN, *map(str, SHIPPED)], help="names, or YAML files")
    for name, default in (("size", 128), ("batch", 4), ("repetitions", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--cpu-time", action="store_true", help="processor time: with --threads 1 on a busy machine")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    keep_freed_memory()  # as training does
    if args.threads:
        torch.set_num_threads(args.threads)
    students = {}
    for name in args.students:
        found = students[Path(name).stem] = measure(args, name)
        print(
            "{:28} {usual_ms:8.1f} ms  × {ratio:.2f} ({lowest:.2f} to {highest:.2f})".format(Path(name).stem, **found)
        )
    facts = {"size": args.size, "batch": args.batch, "repetitions": args.repetitions, "device": args.device}
    facts |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "load": os.getloadavg()[0]}
    if args.json:
        write_json(args.json, facts | {"students": students})


if __name__ == "__main__":
    main()
