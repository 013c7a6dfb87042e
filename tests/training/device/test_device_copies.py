"""Copies to the device: the same batches, and on a GPU beside the step."""

import pytest
import torch

from pipeline.training.device.copies import Copies


def test_on_a_cpu_nothing_is_copied():
    host = {"a": torch.arange(3)}
    copies = Copies(torch.device("cpu"))
    assert copies.receive(copies.send(host))["a"] is host["a"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_arrays_arrive_whole_though_the_memory_is_used_again():
    device = torch.device("cuda")
    copies = Copies(device)
    for value in range(50):
        host = {"a": torch.full((1 << 22,), value, dtype=torch.int32, pin_memory=True)}
        sent = copies.send(host)
        del host
        total = copies.receive(sent)["a"].sum()
        del sent
        assert total.item() == value << 22
