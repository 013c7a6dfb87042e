"""Float32 products of matrices keep float32's accuracy, whichever library computes them, and settings are put back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sward import cpu_products
from sward.cpu_products import onednn_is_faster, products_in

CPU = torch.device("cpu")
ZEN5 = dict.fromkeys((*cpu_products.AVX512, "avx512_bf16"), True) | {"cpu_name": "AMD EPYC"}


@pytest.fixture(autouse=True)
def asked_anew():
    """What is known of the processor is found again after a test that pretends another one."""
    yield
    for known in (cpu_products.fast_bfloat16, onednn_is_faster):
        known.cache_clear()


@pytest.mark.parametrize("shape", [(1, 1, 64, 64, 32), (1, 1, 4096, 96, 32), (16, 16, 64, 33, 64)])
def test_onednns_float32_product_is_as_exact_as_torchs_own(shape, monkeypatch):
    """On a processor where torch asks oneDNN at all: one with AVX-512 and without tiles."""
    monkeypatch.setattr(cpu_products, "onednn_is_faster", cpu_products._factors_are_kept)
    generator = torch.Generator().manual_seed(0)
    batch, _, rows, inner, columns = shape
    a, b = (torch.randn(batch, *s, generator=generator) for s in ((rows, inner), (inner, columns)))
    exact = a.double() @ b.double()
    own = (a @ b - exact).abs().max()
    with products_in("float32", CPU):
        found = (a @ b - exact).abs().max()
    assert found <= 4 * own


def test_the_setting_is_put_back_after_a_failure_too():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(RuntimeError), products_in("float32", CPU):
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_threads_that_take_turns_leave_the_setting_as_it_was(monkeypatch):
    """The second asks for the context while the first is in it, and would find its setting."""
    monkeypatch.setattr(cpu_products, "onednn_is_faster", lambda: True)
    before, entered = torch.backends.mkldnn.matmul.fp32_precision, threading.Event()

    def multiply(wait):
        wait()
        with products_in("float32", CPU):
            entered.set()
            threading.Event().wait(0.05)
            return torch.backends.mkldnn.matmul.fp32_precision

    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(multiply, wait) for wait in (lambda: None, entered.wait)]
    assert [one.result() for one in found] == ["bf16", "bf16"]
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_factors_are_looked_at_also_where_tensors_are_fake():
    with FakeTensorMode():
        found = cpu_products._factors_are_kept()
    assert found == cpu_products._factors_are_kept()


@pytest.mark.parametrize(
    ("processor", "kept", "faster"),
    [
        (ZEN5, True, True),
        (ZEN5, False, False),  # a library that rounds factors is not asked for float32
        (ZEN5 | {"amx_bf16": True}, True, False),
        (ZEN5 | {"cpu_name": "Intel(R) Xeon(R)"}, True, False),
        (ZEN5 | {"avx512_bw": False}, True, False),
        ({}, True, False),  # torch does not know
    ],
)
def test_onednn_is_asked_on_amds_processors_with_avx512_where_it_keeps_the_factors(
    processor, kept, faster, monkeypatch
):
    monkeypatch.setattr(cpu_products, "_processor", lambda: processor)
    monkeypatch.setattr(cpu_products, "_factors_are_kept", lambda: kept)
    onednn_is_faster.cache_clear()
    assert onednn_is_faster() is faster
