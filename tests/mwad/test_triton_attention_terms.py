"""Triton kernels equal MWAD's reference in Triton's interpreter, compile for a GPU, and say where they cannot run."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mwad.triton_cases import CASES
from pydantic import ValidationError

from sward import MWAD, MWADConfig
from sward.methods.sward import SwardConfig

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (it is for Linux)")


def run(tmp_path, *arguments, **environment):
    """In a process of its own, because Triton reads its variables when it is imported."""
    paths = {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tests/mwad/triton_cases.py"), *arguments]
    done = subprocess.run(command, env=kept | paths | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    return run(tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_equal_the_reference_with_its_gradients(case, errors):
    found = errors[case]
    assert {"attn", "gradient of map", "gradient of weight"} <= found.keys()
    for name, error in found.items():
        assert error <= (1e-4 if name.startswith("gradient") else 1e-5), name


@pytest.mark.slow  # the interpreter accepts what the compiler does not
@needs_triton
def test_the_kernels_compile_for_a_gpu_that_need_not_be_there(tmp_path):
    sizes = run(tmp_path, "compile", TRITON_DEFAULT_FP_FUSION="1")
    assert set(sizes) == {"sums_kernel", "gradients_kernel"}
    assert min(sizes.values()) > 1000


def module(**settings):
    mwad = MWAD({"s8": 6}, {"s8": 4}, MWADConfig(window=4, **settings))
    f_t, f_s = ({"s8": torch.randn(2, c, 8, 8, generator=torch.Generator().manual_seed(c))} for c in (6, 4))
    mwad.prepare(f_t)
    return mwad, f_t, f_s


def test_auto_is_eager():
    found = []
    for kernels in ("auto", "eager"):
        mwad, f_t, f_s = module(kernels=kernels)
        found.append(mwad(f_t, f_s, seed=0, step=0))
    assert found[0] == found[1]


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="in the interpreter they run on the CPU")
def test_kernels_asked_for_on_a_cpu_say_where_they_run():
    mwad, f_t, f_s = module(kernels="triton")
    with pytest.raises(ValueError, match=r"mwad.kernels is triton, which runs on GPUs.*set mwad.kernels: eager"):
        mwad(f_t, f_s, seed=0, step=0)


def test_without_triton_the_way_out_is_said(monkeypatch):
    monkeypatch.setattr("sward.mwad.triton_attention_terms.find_spec", lambda name: None)
    mwad, f_t, f_s = module(kernels="triton")
    with pytest.raises(ValueError, match=r"Triton is not installed; install it, or set mwad\.kernels: eager"):
        mwad(f_t, f_s, seed=0, step=0)


def test_what_the_kernels_leave_to_the_eager_form_is_computed_by_it():
    for changes in ({"window": 17}, {}):
        mwad = MWAD({"s8": 6}, {"s8": 4}, MWADConfig(kernels="triton", window=4).model_copy(update=changes))
        wide = torch.float32 if changes else torch.float64
        mwad, size = mwad.to(wide), 17
        f_t, f_s = ({"s8": torch.randn(1, c, size, size, dtype=wide)} for c in (6, 4))
        mwad.prepare(f_t)
        assert mwad(f_t, f_s, seed=0, step=0)["attn"].dtype == wide


@pytest.mark.parametrize(("name", "value"), [("kernels", "triton"), ("products", "bfloat16")])
def test_what_needs_a_frozen_teacher_says_so_and_is_in_the_identity(name, value):
    with pytest.raises(ValidationError, match=f"{name} is {value} with teacher_proj: learned"):
        MWADConfig(**{name: value, "teacher_proj": "learned"})
    assert name not in SwardConfig().model_dump()["mwad"]
    assert SwardConfig(mwad={name: value}).model_dump()["mwad"][name] == value
