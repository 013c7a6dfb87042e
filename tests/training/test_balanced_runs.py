"""Runs with gradient balancing: exact on resume, part of the identity; runs without it are as they were."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from test_stateful_methods import Asking, saved
from tiny import HEAD, tiny_train

from pipeline.training import loop
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Interrupted, train

PARTS = {"hint": {"kind": "fitnet"}, "kd": {"kind": "kd"}}
SAVED = Path(__file__).parents[2] / "results" / "methods-all-clinicdb-cpu" / "runs"


def balanced(runs, cache, name, **balance):
    method = {"kind": "combined", "parts": PARTS, "balance": {"kind": "gradient", "every": 2} | balance}
    return tiny_train(runs, cache, method=method, head=HEAD, steps=5, checkpoint_every=100, name=name)


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_stopped_between_two_measurements_and_resumed_it_has_the_bytes_of_one_that_was_not(runs, cache, monkeypatch):
    config = balanced(runs, cache, "halves")
    whole = train(config.model_copy(update={"name": "whole"}))
    asked = iter([False, False, False, True])  # asked once a step: stops after the fourth, before the next measurement
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", lambda: Asking(asked))
        with pytest.raises(Interrupted, match="after step 4"):
            train(config)
    half = saved(config.folder)
    resumed = train(config)
    found, wanted = saved(resumed), saved(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in found)
    assert not torch.equal(half["method.balance.norms"], found["method.balance.norms"])
    assert (resumed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    factors = [[line["balance/hint"], line["balance/kd"]] for line in logged(resumed) if "loss" in line]
    assert factors[0] == factors[1] != factors[2]
    assert [line["loss"] for line in logged(resumed) if "loss" in line] == [
        line["loss"] for line in logged(whole) if "loss" in line
    ]


def test_the_measured_shares_are_those_asked_for(runs, cache):
    config = balanced(runs, cache, "shares", share={"hint": 0.25, "kd": 1.0}, every=1, decay=0.0)
    line = next(x for x in logged(train(config.model_copy(update={"steps": 2}))) if "share/task" in x)
    whole = [p for p in line if p.startswith("share/")]
    assert set(whole) == {"share/task", "share/hint.hint", "share/kd.kd"}
    assert line["share/kd.kd"] / line["share/task"] == pytest.approx(1, rel=1e-3)
    assert line["share/hint.hint"] / line["share/task"] >= 0.25 - 1e-3  # counts the adapter's gradient too


def test_every_setting_is_part_of_the_identity(runs, cache):
    plain = tiny_train(runs, cache, method={"kind": "combined", "parts": PARTS}, head=HEAD, steps=5)
    changes = [{}, {"share": 0.4}, {"every": 3}, {"decay": 0.8}]
    found = {balanced(runs, cache, "any", **change).identity() for change in changes}
    assert len(found | {plain.identity()}) == 5


@pytest.mark.parametrize("file", sorted(SAVED.glob("*/config.yaml")), ids=lambda file: file.parent.name)
def test_runs_of_before_keep_their_identity(file):
    config = TrainConfig.model_validate(yaml.safe_load(file.read_text()))
    assert file.parent.name.endswith(config.identity()[:10])
