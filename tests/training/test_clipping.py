"""Clipping: one wait for the device, for the check of the step and the stop requests of all processes together."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from fake_cuda import Trace

from pipeline.training.distributed.collectives import read_with_any


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield SimpleNamespace(world_size=2, device=torch.device("cpu"))
    dist.destroy_process_group()


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_the_check_and_the_stop_flag_of_several_processes_are_read_in_one_wait(group, finite, asked):
    waits = []
    item, tolist = torch.Tensor.item, torch.Tensor.tolist
    with pytest.MonkeyPatch.context() as patch, Trace() as trace:
        patch.setattr(torch.Tensor, "item", lambda t: waits.append("item") or item(t))
        patch.setattr(torch.Tensor, "tolist", lambda t: waits.append("tolist") or tolist(t))
        found = read_with_any(group, torch.tensor(finite), asked)
    assert found == (finite, asked)
    assert waits == ["tolist"]
    assert not any("_local_scalar_dense" in name for name in trace.names[:-2])  # but those of tolist itself


def test_one_process_asks_nobody():
    alone = SimpleNamespace(world_size=1, device=torch.device("cpu"))
    assert read_with_any(alone, torch.tensor(True), True) == (True, True)
