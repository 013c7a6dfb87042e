"""Compiles the student with torch.compile (``compile: true``); method and objective are not compiled.

Compiled kernels round differently, so the option is part of a run's identity. It is meant for GPUs and long runs: on
one CPU core a step of UNeXt takes 0.98 of the time, after one or two minutes of compiling. Each batch size gets its own
kernels, independent of earlier ones. Dropout draws the same masks as uncompiled, evaluation is not compiled, and the
weights keep their names.
"""

import shutil
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn


class CannotCompile(ValueError):
    """``compile: true`` on a machine without the compiler it needs."""


def compile_student(student: nn.Module, device: torch.device) -> None:
    """Sets the student, in place, to run compiled on ``device``; kernels are built in the first training step.

    Raises:
        CannotCompile: no compiler.
    """
    require_compiler(device)
    from torch._functorch import config

    config.donated_buffer = False  # gradient shares run backward several times through one graph
    torch._dynamo.reset()  # else students of earlier runs count towards the recompile limit
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # instead of continuing uncompiled silently
    student.compile(dynamic=False, options={"fallback_random": True})


def uncompiled(student: nn.Module) -> AbstractContextManager[Any]:
    """Context in which the student runs uncompiled, because evaluation images differ in shape.

    Args:
        student: the compiled module, or one that holds it, such as Fabric's wrapper.
    """
    if all(m._compiled_call_impl is None for m in student.modules()):  # importing the compiler takes a second
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def require_compiler(device: torch.device) -> None:
    """Checks for Triton and a C compiler (GPU), or for a C++ compiler that starts (CPU).

    Raises:
        CannotCompile: one is missing; says which to install.
    """
    if device.type == "cuda":
        if find_spec("triton") is None or not any(map(shutil.which, ("cc", "gcc", "clang"))):
            raise CannotCompile(
                "compile: true needs Triton and a C compiler on a GPU, and at least one of them is missing; install "
                "triton and gcc, or leave `compile` out"
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise CannotCompile(
            f"compile: true needs a C++ compiler, found none that works ({error}); install g++ or clang++ (or name "
            "one in CXX), or leave `compile` out"
        ) from error
