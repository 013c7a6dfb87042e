"""Thirty steps from a store in miniature lower a method's own loss, and not only the task's."""

import json
import statistics

import pytest
from tiny import HEAD, tiny_train

from pipeline.training.loop import train

METHODS = {
    "dkd": {"kind": "dkd", "others": 0},  # the store has two classes
    "ofa": {"kind": "ofa"},
    "ofa, as printed": {"kind": "ofa", "form": "as_paper", "gamma": 1.3, "branch": "sep", "resample": "area"},
    "ckd": {"kind": "ckd"},
    "ckd, attention alone": {"kind": "ckd", "values_weight": 0, "linear_weight": 0},
    "ckd, as released": {"kind": "ckd", "match": "scores", "groups": "residue"},
    "reviewkd": {"kind": "reviewkd"},
    "balanced": {"kind": "combined", "parts": {"ckd": {"kind": "ckd"}, "kd": {"kind": "kd"}}, "balance": "gradient"},
}


@pytest.mark.parametrize("name", METHODS)
def test_its_own_weighted_loss_falls_over_thirty_steps(name, cache, runs):
    settings = {"steps": 30, "checkpoint_every": 30, "signal_every": 0, "optimizer": {"lr": 2e-3}}
    settings |= {"head": HEAD | {"steps": 60}}  # one of three steps knows no class
    config = tiny_train(runs, cache, method=METHODS[name], name=name.replace(", ", "-").replace(" ", "-"), **settings)
    train(config.head_run())  # at once where it is there
    lines = [json.loads(line) for line in (train(config) / "metrics.jsonl").read_text().splitlines()]
    own = [line["loss"] - line["term/task"] for line in lines if "loss" in line]
    assert len(own) == 30
    assert statistics.mean(own[-6:]) < statistics.mean(own[:6])
