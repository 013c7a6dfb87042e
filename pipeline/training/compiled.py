"""The student compiled (``compile: true``), by torch.compile; method and objective are not.

It rounds differently, so it is part of a run's identity. On one CPU core a step of UNeXt takes 0.98 of the time, after
a minute or two of compiling: it is meant for GPUs and long runs. A batch size gets kernels of its own, whatever came
before it, dropout draws what it draws uncompiled, and evaluation is not compiled. Names of weights stay.
"""

from importlib.util import find_spec

import torch
from torch import nn


class CannotCompile(ValueError):
    """``compile: true``, and this machine has nothing to build kernels with."""


def compile_student(student: nn.Module, device: torch.device) -> None:
    """Make the student run compiled on ``device``, in place, from its first training step on.

    Raises:
        CannotCompile: no compiler.
    """
    require_compiler(device)
    from torch._functorch import config

    config.donated_buffer = False  # the relational signal goes back through one graph several times
    student.compile(dynamic=False, options={"fallback_random": True})


def require_compiler(device: torch.device) -> None:
    """Triton on a GPU, else a C++ compiler that starts."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise CannotCompile("compile: true needs Triton, found none; install triton, or leave `compile` out")
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
