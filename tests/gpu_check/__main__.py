"""Runs all checks on a device; writes gpu-check.json and gpu-check.md; exit status 1 if one fails.

PYTHONPATH=tests python -m gpu_check --device cuda --out build/gpu-check
"""

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gpu_check import stores, training
from gpu_check.bench import Bench, Facts, require
from pipeline.devices import cores, device_name, resolve_device
from pipeline.training.run_folder import commit, versions


def machine(bench: Bench) -> Facts:
    """The machine, and the settings of torch that change how a GPU rounds."""
    facts = {
        "device": str(bench.device),
        "name": device_name(bench.device),
        "devices": torch.cuda.device_count(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    if bench.on_gpu:
        major, minor = torch.cuda.get_device_capability(bench.device)
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "capability": f"{major}.{minor}"}
    require(torch.zeros(1, device=bench.device).device.type == bench.device.type, "tensors are made on another device")
    return facts


CHECKS: dict[str, Callable[[Bench], Facts]] = {
    "machine": machine,
    "codecs": stores.codecs,
    "fused terms": training.fused,
    "Triton kernels": training.kernels,
    "no waiting": training.no_waiting,
    "extraction and verification": stores.extraction,
    "teacher speed": stores.teacher_speed,
    "buffers under load": stores.buffers,
    "methods": training.methods,
    "repetition": training.repetition,
    "compiling": training.compiling,
    "processes": training.processes,
    "memory": training.memory,
    "parts of a step": training.parts,
    "marked tests": training.marked_tests,
}


def run_checks(device: str, out: Path, chosen: Sequence[str] = tuple(CHECKS)) -> bool:
    """Runs the checks and writes both files; returns whether all passed.

    Raises:
        ValueError: there is no such device; a missing GPU is never replaced by the CPU.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(resolve_device(device), Path(folder))
        for name in chosen:
            found[name] = checked(CHECKS[name], bench)
            print(f"{name}: {'ok' if found[name]['ok'] else found[name]['error']}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu-check.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "gpu-check.md").write_text(page(device, found))
    return all(result["ok"] for result in found.values())


def checked(check: Callable[[Bench], Facts], bench: Bench) -> Facts:
    """The facts of one check, or its error; one that fails does not stop the others."""
    began = time.monotonic()
    try:
        result: Facts = {"ok": True, "facts": check(bench)}
    except Exception as error:
        result = {"ok": False, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    return result | {"seconds": round(time.monotonic() - began, 2)}


def page(device: str, found: dict[str, Any]) -> str:
    """The results as Markdown."""
    failed = [name for name, result in found.items() if not result["ok"]]
    lines = [f"# GPU check on {device}", "", "all passed" if not failed else f"**failed: {', '.join(failed)}**", ""]
    lines += ["| check | result | s | what it means |", "| --- | --- | ---: | --- |"]
    for name, result in found.items():
        skipped = result.get("facts", {}).get("skipped")
        said = "failed" if not result["ok"] else f"skipped: {skipped}" if skipped else "ok"
        lines.append(f"| {name} | {said} | {result['seconds']} | {(CHECKS[name].__doc__ or '').strip()} |")
    for name, result in found.items():
        text = json.dumps(result["facts"], indent=1) if result["ok"] else result["trace"]
        lines += ["", f"## {name}", "", "```", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 …, or cpu for the checks in miniature.")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), help="Folder for both files.")
    parser.add_argument("--only", nargs="+", choices=sorted(CHECKS), default=list(CHECKS), help="Checks to run.")
    args = parser.parse_args(arguments)
    try:
        passed = run_checks(args.device, args.out, args.only)
    except ValueError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(args.out / "gpu-check.md")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
