"""A step of every method on a device whose values cannot be read: no wait, few copies, no unrepeatable kernel."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from contracts.test_methods import make_batch, make_output, prepared
from fake_cuda import Trace
from table import CONFIGS

from pipeline.training.device.determinism import repeatable
from sward.contracts import Batch, Method, StudentOutput
from sward.methods.cirkd import target
from sward.objective import Objective

META = torch.device("meta")  # reading a value of such a tensor raises an error
COPIES = {"cirkd": 3, "ckd": 3, "mgd": 1, "sard": 1, "afdcd": 1}  # of a step, from the host; others: none


def on_meta(kind: str) -> tuple[Method, StudentOutput, Batch]:
    """A method after its first step, a student's output and a batch on the device that stands for a GPU."""
    method, output = prepared(kind), make_output()
    batch = make_batch(method)
    method(output, batch, 0)  # the first step may read whether it was prepared
    method = copy.deepcopy(method).to(META)
    features = {k: f.to(META) for k, f in batch.features.items()}
    batch = replace(batch, images=batch.images.to(META), labels=batch.labels.to(META), features=features)
    maps = {k: f.detach().to(META).requires_grad_() for k, f in output.features.items()}
    logits, last = (f.detach().to(META).requires_grad_() for f in (output.logits, output.penultimate))
    return method, StudentOutput(logits, maps, last), batch


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_step_waits_for_nothing_and_copies_its_draws_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for the meta device
    method, output, batch = on_meta(kind)
    labels = make_batch(method).labels
    grid_labels = labels[:, ::4, ::4].contiguous()
    known = target.present(grid_labels)
    monkeypatch.setattr(target, "present", lambda y: known)  # the one wait of CIRKD: which classes are where
    objective = Objective(method)
    with repeatable(True), Trace() as trace:
        losses = objective(output, batch, 1)
        losses.total.backward()
    assert len(trace.copies) <= COPIES.get(kind, 0), trace.copies
    # torch replaces bilinear resizing on CUDA; pooling adds in any order only where its windows overlap, and then warns
    allowed = ("upsample", "adaptive_avg_pool2d") if kind == "reviewkd" else ("upsample",)
    assert [name for name in trace.unrepeatable() if not any(word in name for word in allowed)] == []


def test_cirkd_reads_the_labels_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = prepared("cirkd"), make_batch(prepared("cirkd"))
    read: list[int] = []
    present = target.present
    monkeypatch.setattr(target, "present", lambda y: read.append(1) or present(y))
    method(make_output(), batch, 1)
    assert len(read) == 1
