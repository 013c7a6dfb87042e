"""Repeatable kernels (``deterministic: true``): a run on a GPU gives the same bits every time.

Some CUDA kernels add with atomic operations, whose order differs from call to call. Torch has another form of most of
them; cross-entropy gets its own (`sward.task.pixel_cross_entropy`). On a CPU every run is repeatable without it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS when the process first uses it


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Context in which torch takes repeatable kernels, if ``wanted``; a kernel without such a form warns by its name.

    It warns instead of stopping the run, because some are repeatable as they are used here: max pooling adds in
    any order only where its windows overlap.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    before, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # torch's stubs leave its setting out
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    memory.fill_uninitialized_memory = False  # all that is allocated here is written before it is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.deterministic = cudnn
        memory.fill_uninitialized_memory = filled
