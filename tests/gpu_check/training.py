"""Checks of stage 2: losses, methods, repetition, compiling, several processes, memory and the parts of a step."""

import copy
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.test_methods import make_batch, make_output, prepared
from table import CONFIGS, EXAMPLES
from torch import Tensor

from gpu_check.bench import Bench, Facts, losses, relative, require, same_weights
from pipeline.training import loop
from pipeline.training.loop import Interrupted, train
from sward import MWAD, MWADConfig
from sward.contracts import Batch, StudentOutput
from sward.mwad.attention_terms import plain_terms
from sward.mwad.fused_attention_terms import fused_terms
from sward.mwad.triton_attention_terms import triton_terms
from sward.mwad.windows import Windows
from sward.objective import Objective

SHORT = {"steps": 2, "batch_size": 4}
SWITCHES: dict[str, Any] = {  # as in tests/methods/test_short_runs.py
    "heteroakd": {"warmup_steps": 1},
    "maskd": {"prestage": SHORT},
    "freekd": {"prestage": SHORT},
    "dkd": {"others": 0},
}
FEW = ("sward", "cirkd", "maskd")  # methods of a check in miniature


def moved(output: StudentOutput, batch: Batch, device: torch.device) -> tuple[StudentOutput, Batch]:
    """Copies on a device; the student's maps are leaves."""
    maps = {k: f.detach().to(device).requires_grad_() for k, f in output.features.items()}
    logits, last = (f.detach().to(device).requires_grad_() for f in (output.logits, output.penultimate))
    features = {k: f.to(device) for k, f in batch.features.items()}
    return StudentOutput(logits, maps, last), Batch(
        batch.images.to(device), batch.labels.to(device), features, batch.ids, batch.seed
    )


def fused(bench: Bench) -> Facts:
    """MWAD's fused terms and gradients are those of the plain ones, at odd sizes and with masks."""
    method = prepared("sward").to(bench.device)
    worst = 0.0
    for (t, _), (H, W) in zip(method.mwad.pairs, ((13, 19), (8, 8), (5, 9), (3, 2)), strict=False):
        stage = method.mwad.stages[t]
        f_t = torch.randn(2, stage.phi.in_channels, H, W, device=bench.device)
        f_s = torch.randn(2, stage.theta_s.in_channels, H, W, device=bench.device, requires_grad=True)
        windows = method.mwad._windows(0, f_t, (H, W), (1, 1), 0, 0)
        masks = windows.masks(True, True, bench.device)
        terms = [form(stage, f_t, f_s, windows, *masks) for form in (plain_terms, fused_terms)]
        grads = [torch.autograd.grad(torch.stack(list(x.values())).sum(), f_s)[0] for x in terms]
        worst = max(worst, relative(grads[1], grads[0]))
        for name, value in terms[0].items():
            error = relative(terms[1][name], value)
            require(error < 1e-4, f"{t}: {name} differs by {error:.1e}")
    require(worst < 1e-3, f"the gradient differs by {worst:.1e}")
    return {"gradient_error": worst}


def kernels(bench: Bench) -> Facts:
    """MWAD's Triton kernels give the terms and gradients of the plain form, and both forms' time at a step's size.

    On the CPU the fused form stands for the kernels (`tests/mwad/test_triton_attention_terms.py` interprets them).
    """
    form = triton_terms if bench.on_gpu else fused_terms
    worst, ms = {"terms": 0.0, "gradients": 0.0}, {}
    sizes = ((2, 13, 8, 20), (1, 9, 9, 768)) + (((8, 64, 8, 256), (8, 64, 16, 64)) if bench.on_gpu else ())
    for images, side, window, channels in sizes:
        mwad = MWAD({"s8": 192}, {"s8": channels}, MWADConfig(window=window)).to(bench.device)
        f_t = torch.randn(images, 192, side, side, device=bench.device)
        f_s = torch.randn(images, channels, side, side, device=bench.device, requires_grad=True)
        mwad.prepare({"s8": f_t})
        windows = Windows(side, side, window, 3, 1)
        parts = (mwad.stages["s8"], f_t, f_s, windows, *windows.masks(True, False, bench.device))

        def step(form: Any, parts: Any = parts) -> tuple[Tensor, Tensor]:
            total = torch.stack(list(form(*parts).values()))
            return total.detach(), torch.autograd.grad(total.sum(), parts[2])[0]

        expected, found = step(plain_terms), step(form)
        for name, a, b in zip(worst, found, expected, strict=True):
            worst[name] = max(worst[name], relative(a, b))
        for name, timed in (("eager", fused_terms), ("triton", form)):
            case = f"{name}, {images} x {side}² cells, windows of {window}², {channels} channels"
            ms[case] = 1e3 * bench.timed(partial(step, timed))
    require(worst["terms"] < 1e-5 and worst["gradients"] < 1e-4, f"relative errors {worst}")
    return {"errors": worst, "ms": ms}


def no_waiting(bench: Bench) -> Facts:
    """No method's step reads a value of the device, but for CIRKD, whose draws depend on the labels."""
    for kind in CONFIGS:
        method, output = prepared(kind), make_output()
        batch = make_batch(method)
        method(output, batch, 0)  # the first step may read whether it was prepared
        objective = Objective(copy.deepcopy(method)).to(bench.device)
        output, batch = moved(output, batch, bench.device)
        if bench.on_gpu and kind != "cirkd":
            torch.cuda.set_sync_debug_mode("error")
        try:
            objective(output, batch, 1).total.backward()
        except RuntimeError as error:
            raise AssertionError(f"{kind}: {error}") from error
        finally:
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return {"methods": len(CONFIGS)}


def methods(bench: Bench) -> Facts:
    """Every method, with its pre-stage, trains three steps with the losses of a CPU, in both precisions."""
    worst: dict[str, float] = {}
    for precision, limit in (("32-true", 2e-3), ("bf16-mixed", 0.1)):
        train(bench.training("head", precision=precision).head_run())
        kinds = CONFIGS if bench.on_gpu and precision == "32-true" else FEW
        for kind in kinds:
            method = {"kind": kind} | SWITCHES.get(kind, {}) | EXAMPLES.get(kind, {})
            found = {}
            for device in ("cpu", str(bench.device)):
                name = f"{kind}-{precision}-{device.replace(':', '')}"
                folder = train(bench.training(name, method=method, precision=precision, device=device))
                found[device] = losses(folder)
                said = json.loads((folder / "run.json").read_text())["device"]
                require(said.split()[0] == device.split(":")[0], f"{name} ran on {said}")
            expected, values = found["cpu"], found[str(bench.device)]
            require(all(map(math.isfinite, values)), f"{kind} {precision}: losses {values}")
            worst[f"{kind} {precision}"] = max(abs(a - b) / abs(b) for a, b in zip(values, expected, strict=True))
            require(worst[f"{kind} {precision}"] < limit, f"{kind} {precision}: {values}, on the CPU {expected}")
    return {"loss_error": worst}


def repetition(bench: Bench) -> Facts:
    """With ``deterministic: true`` the same run twice, and stopped and resumed, gives the same bits."""
    config = bench.training("repeated", deterministic=True, device=str(bench.device), steps=4, checkpoint_every=2)
    first, again, resumed = (config.model_copy(update={"name": f"repeated-{i}"}) for i in range(3))
    folders = [train(first), train(again)]
    require(same_weights(*folders), "the same run twice gave other weights")
    asked = iter([False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "stop_requests", lambda: _Asking(asked))
        try:
            train(resumed)
        except Interrupted:
            pass
        else:
            raise AssertionError("a run that was asked to stop went on")
    require(same_weights(folders[0], train(resumed)), "a stopped and resumed run gave other weights")
    return {"runs": 3}


class _Asking:
    """Stands for ``stop_requests``: asked as an iterator says."""

    def __init__(self, asked: Any) -> None:
        self.asked = asked

    def __enter__(self) -> Any:
        return lambda: next(self.asked, False)

    def __exit__(self, *_: object) -> None: ...


def compiling(bench: Bench) -> Facts:
    """A compiled student trains and is evaluated, at more sizes than the compiler keeps kernels for."""
    if not bench.on_gpu:
        return {"skipped": "compiling takes minutes on a CPU; tests/training/device/test_compile.py does it there"}
    config = bench.training("compiled", compile=True, device=str(bench.device), eval_every=1)
    plain = bench.training("not-compiled", device=str(bench.device), eval_every=1)
    found, expected = losses(train(config)), losses(train(plain))
    require(abs(found[0] - expected[0]) < 1e-3 * abs(expected[0]), f"compiled {found}, plain {expected}")
    return {"losses": found, "uncompiled": expected}


def processes(bench: Bench) -> Facts:
    """Two processes give the losses of one: over NCCL where there are two GPUs, over gloo on the CPU."""
    if bench.on_gpu and torch.cuda.device_count() < 2:
        return {"skipped": "one GPU"}
    device = bench.device.type
    found = losses(train(bench.training("two", devices=2, device=device)))
    expected = losses(train(bench.training("one", device=device)))
    error = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    require(error < 1e-3, f"two processes {found}, one {expected}")
    return {"loss_error": error}


def memory(bench: Bench) -> Facts:
    """Memory of the device after 200 steps is that after 20."""
    if not bench.on_gpu:
        train(bench.training("memory", steps=4))
        return {"skipped": "the allocator of a GPU counts; the run itself is done"}
    found = {}
    for steps in (20, 200):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train(bench.training(f"memory-{steps}", steps=steps, device=str(bench.device), checkpoint_every=1000))
        found[steps] = torch.cuda.max_memory_allocated()
    require(found[200] <= 1.02 * found[20], f"peak bytes after steps: {found}")
    return {"peak_bytes": found}


def parts(bench: Bench) -> Facts:
    """Time of a training step by part, as ``sward train --profile`` measures it."""
    config = bench.training("profiled", steps=40 if bench.on_gpu else 12, device=str(bench.device))
    folder = train(config, profile_steps=10 if bench.on_gpu else 2)
    found = json.loads((folder / "profile.json").read_text())
    return {"ms_undisturbed": found["undisturbed_ms"], "parts": {row["part"]: row["ms"] for row in found["parts"]}}


def marked_tests(bench: Bench) -> Facts:
    """The tests marked ``gpu``; on the CPU they are collected only."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
               "tests/training", "tests/cache/extraction/test_dask.py", "tests/results/test_step_costs.py"]  # fmt: skip
    command += [] if bench.on_gpu else ["--collect-only"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    require(done.returncode == 0, f"pytest -m gpu: {done.stdout[-500:]}")
    return {"said": done.stdout.strip().splitlines()[-1]}
