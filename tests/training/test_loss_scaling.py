"""Training in float16: the loss scale finds its size, and steps that overflow change nothing."""

import json

import pytest
import torch
from test_stateful_methods import Asking
from tiny import tiny_train

from pipeline.training import checkpoint, loop
from pipeline.training.loop import Interrupted, train
from sward.objective import NonFiniteError

OVERFLOWING = {"ce": 1e4}  # times the first scale of 65536: gradients beyond 65504, float16's largest number


def half(runs, cache, name="half", **changes):
    return tiny_train(runs, cache, name=name, precision="16-mixed", batch_size=2, **changes)  # slow on a CPU


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def scale(folder):
    return checkpoint.read(folder / "last.ckpt")["scaler"]["scale"]


def test_its_losses_are_those_of_float32_up_to_rounding(runs, cache):
    still = {"steps": 4, "optimizer": {"lr": 1e-9}}  # the first steps may be left out: then other weights follow
    found = losses(train(half(runs, cache, **still)))
    wanted = losses(train(tiny_train(runs, cache, name="single", batch_size=2, channels_last=True, **still)))
    assert found == pytest.approx(wanted, rel=2e-2)
    assert found != wanted


def test_the_scale_halves_until_nothing_overflows_and_only_then_a_weight_changes(runs, cache):
    folder = train(half(runs, cache, steps=8, task={"ce": 10}, optimizer={"lr": 1e-6}))
    skipped = 16 - int(torch.tensor(scale(folder)).log2())
    assert 0 < skipped < 8
    steps = checkpoint.read(folder / "last.ckpt")["optimizer"]["state"][0]["step"]
    assert int(steps) == 8 - skipped


def test_a_gradient_that_overflows_at_the_smallest_scale_stops_the_run(runs, cache, monkeypatch):
    monkeypatch.setattr("pipeline.training.device.loss_scaling.SMALLEST", 1e9)
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        train(half(runs, cache, steps=2, task=OVERFLOWING))


def test_stopped_and_resumed_it_has_the_bytes_of_one_that_was_not(runs, cache, monkeypatch):
    config = half(runs, cache, steps=3, task=OVERFLOWING, checkpoint_every=100)
    whole = train(config.model_copy(update={"name": "whole"}))
    with monkeypatch.context() as patch:
        asked = iter([False, True])  # asked once a step: stops after the second
        patch.setattr(loop, "stop_requests", lambda: Asking(asked))
        with pytest.raises(Interrupted, match="after step 2"):
            train(config)
    assert scale(config.folder) > scale(whole)
    resumed = train(config)
    assert scale(resumed) == scale(whole)
    assert (resumed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
