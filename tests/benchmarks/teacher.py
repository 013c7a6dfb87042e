"""What a teacher's precision and implementation gain, and the error of every level, against sam2's own forward pass.

    python tests/benchmarks/teacher.py --weights WEIGHTS [--architecture tiny] [--size 512] [--repetitions 7]
                                       [--device cuda] [--json OUT]

One procedural frame. `sam2, its own` is the trunk of the package sam2 in float32; the other rows are the teacher as
extraction runs it. Rows take turns within a repetition; `speed` is the median of the repetitions' own ratios to the
first row. An error is that of the features without their channel means, relative, in the L2 norm.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from roofline import clock_of, seconds
from torch import Tensor

from pipeline.cost_estimates.half_precision import centred_error
from pipeline.datasets.procedural import render
from pipeline.files import write_json
from pipeline.memory import keep_freed_memory
from pipeline.weights import load_teacher
from sward.teachers.hiera import LEVELS, MEAN, STD, HieraConfig, make_trunk

ROWS = {
    "float32": {},
    "bfloat16": {"autocast": True},
    "bfloat16, half": {"autocast": "half"},
    "float32, timm's code": {"implementation": "timm"},
    "bfloat16, timm's code": {"autocast": True, "implementation": "timm"},
}
OWN = "sam2, its own"


def forwards(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[Tensor], dict[str, Tensor]]]:
    """Row -> images (1, 3, H, W) to features by level."""
    base = {"architecture": args.architecture, "weights": str(args.weights)}
    found = {row: load_teacher(HieraConfig.model_validate(base | more)).to(device) for row, more in ROWS.items()}
    trunk = make_trunk(args.architecture).to(device).eval()
    trunk.load_state_dict(found["float32"].trunk.state_dict())
    return {OWN: lambda images: dict(zip(LEVELS, trunk(images), strict=True)), **found}


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    device, clock = torch.device(args.device), clock_of(args.device, cpu_time=False)
    pixels = torch.from_numpy(render(0, 0, (args.size, args.size))[0]).movedim(-1, 0)[None].to(device) / 255
    images = (pixels - pixels.new_tensor(MEAN)[:, None, None]) / pixels.new_tensor(STD)[:, None, None]
    rows = forwards(args, device)
    exact = rows[OWN](images)
    errors = {row: {k: centred_error(f, exact[k]) for k, f in run(images).items()} for row, run in rows.items()}
    taken: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(args.repetitions):
        for row, run in rows.items():
            taken[row].append(seconds(partial(run, images), clock))
    speeds = {row: [a / b for a, b in zip(taken[OWN], times, strict=True)] for row, times in taken.items()}
    return {
        row: {"ms": 1e3 * statistics.median(times), "speed": statistics.median(speeds[row]), "errors": errors[row]}
        for row, times in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="of the trunk, .pt or .safetensors")
    parser.add_argument("--architecture", default="tiny")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    keep_freed_memory()  # as extraction does
    rows = measure(args)
    for row, found in rows.items():
        errors = ", ".join(f"{level} {error:.1e}" for level, error in found["errors"].items())
        print(f"{row:22} {found['ms']:8.1f} ms  {found['speed']:.2f} × the speed of sam2's own   {errors}")
    facts = {"architecture": args.architecture, "size": args.size, "repetitions": args.repetitions}
    facts |= {"device": args.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if args.json:
        write_json(args.json, facts | {"load": os.getloadavg()[0], "rows": rows})


if __name__ == "__main__":
    main()
