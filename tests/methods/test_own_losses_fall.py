"""Methods that the saved comparison does not hold: in thirty steps from a store in miniature their own loss falls."""

import json
import math

import pytest
from tiny import HEAD, tiny_train

from pipeline.training.loop import train

METHODS = {
    "skd": {"kind": "skd"},
    "skd, trunk": {"kind": "skd", "level": "s16", "pixel": 0},
    "ifvd": {"kind": "ifvd"},
    "dist": {"kind": "dist"},
    "afdcd": {"kind": "afdcd", "level": "s16"},
    "radio": {"kind": "radio", "level": "s16"},
    "radio, mse and mlp": {"kind": "radio", "level": "s16", "loss": "mse", "head": "mlp"},
    "dense mse": {"kind": "fitnet", "preset": "dense_mse", "level": "s16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_thirty_steps_lower_the_methods_weighted_terms(name, cache, runs):
    given = {"steps": 30, "signal_every": 0, "optimizer": {"lr": 2e-3, "schedule": "constant"}}
    label = name.replace(", ", "-").replace(" ", "-")
    config = tiny_train(
        runs, cache, method=METHODS[name], head=HEAD, name=f"falls-{label}", checkpoint_every=30, **given
    )
    train(config.head_run())  # once for all of them
    lines = [json.loads(line) for line in (train(config) / "metrics.jsonl").read_text().splitlines()]
    own = [line["loss"] - line["term/task"] for line in lines if "loss" in line]
    assert len(own) == 30
    assert all(map(math.isfinite, own))
    assert sum(own[-6:]) < sum(own[:6])
