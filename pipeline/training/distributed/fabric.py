"""Makes Lightning's Fabric for one process, or for DDP over several; imports it without torchmetrics.

If torchmetrics is installed, Fabric imports it to check its version, for a helper that SWARD does not use. That costs
0.8 s, because it imports scipy and matplotlib.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from pipeline.devices import resolve_device
from pipeline.training.config import TrainConfig
from pipeline.training.device.loss_scaling import fabric_precision
from pipeline.training.distributed.processes import TIMEOUT


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Context in which importing ``name`` fails, unless it was imported before."""
    loaded = name in sys.modules
    if not loaded:
        sys.modules[name] = None  # type: ignore[assignment]  # makes Python raise ImportError
    try:
        yield
    finally:
        if not loaded:
            del sys.modules[name]


with hidden("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

# DDP option: copy the first process's buffers to the others in every forward pass; torch 2.13 renamed it
NEW = "forward_sync_buffers"
BUFFERS = NEW if NEW in signature(DistributedDataParallel).parameters else "broadcast_buffers"

__all__ = ["Fabric", "make_fabric"]


def make_fabric(config: TrainConfig) -> Fabric:
    """Makes Fabric for the run's device; in one of several processes it connects to the others and waits for them."""
    device = resolve_device(config.device)
    if config.processes == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, **fabric_precision(config, device))
    options: dict[str, Any] = {BUFFERS: False}  # off: `sward.distributed.synced_layers` keeps batch norm's equal
    strategy = DDPStrategy(
        cluster_environment=LightningEnvironment(),  # reads the variables that `processes` and torchrun set
        timeout=TIMEOUT,
        **options,
    )
    fabric = Fabric(
        accelerator=device.type,
        strategy=strategy,
        devices=config.devices,
        num_nodes=config.nodes,
        **fabric_precision(config, device),
    )
    fabric.launch()
    return fabric
