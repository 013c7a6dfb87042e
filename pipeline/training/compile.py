"""The student compiled (``compile: true``), by torch.compile; method and objective are not.

It rounds differently, so it is part of a run's identity. On one CPU core a step of UNeXt takes 0.98 of the time, after
a minute or two of compiling: it is meant for GPUs and long runs. A batch size gets kernels of its own, whatever came
before it, dropout draws what it draws uncompiled, and evaluation is not compiled. Names of weights stay.
"""

import shutil
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

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
    torch._dynamo.reset()  # students of earlier runs count towards the limit
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # rather than go on uncompiled without a word
    student.compile(dynamic=False, options={"fallback_random": True})


def uncompiled(student: nn.Module) -> AbstractContextManager[Any]:
    """Meanwhile the student runs as it was written: shapes differ from picture to picture."""
    if student._compiled_call_impl is None:  # a compiler takes a second to import
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def require_compiler(device: torch.device) -> None:
    """Triton on a GPU, else a C++ compiler that starts."""
    if device.type == "cuda":
        if find_spec("triton") is None or not any(map(shutil.which, ("cc", "gcc", "clang"))):
            raise CannotCompile(
                "compile: true needs Triton and a C compiler, found not both; install triton and gcc, or leave "
                "`compile` out"
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
