"""Lightning's Fabric: one process, or DDP over several; imported without torchmetrics.

Fabric imports torchmetrics, where it is installed, to ask its version: 0.8 s, with scipy and matplotlib behind it,
for a helper that SWARD does not use.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from pipeline.devices import resolve_device
from pipeline.training.config import TrainConfig
from pipeline.training.distributed.processes import TIMEOUT


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Importing ``name`` fails inside, unless it was imported before."""
    loaded = name in sys.modules
    if not loaded:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark for "not there"
    try:
        yield
    finally:
        if not loaded:
            del sys.modules[name]


with hidden("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

# of DDP: whether every forward pass copies the first process's buffers to the others; torch 2.13 has a new name for it
NEW = "forward_sync_buffers"
BUFFERS = NEW if NEW in signature(DistributedDataParallel).parameters else "broadcast_buffers"

__all__ = ["Fabric", "make_fabric"]


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric on the run's device; in one of several processes, joined with the others (waits for them)."""
    device = resolve_device(config.device)
    if config.processes == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, precision=config.precision)
    options: dict[str, Any] = {BUFFERS: False}  # batch norm's are equal on all: `sward.distributed.synced_layers`
    strategy = DDPStrategy(
        cluster_environment=LightningEnvironment(),  # reads what `processes` and torchrun set
        timeout=TIMEOUT,
        **options,
    )
    fabric = Fabric(
        accelerator=device.type,
        strategy=strategy,
        devices=config.devices,
        num_nodes=config.nodes,
        precision=config.precision,
    )
    fabric.launch()
    return fabric
