"""Every method of the table trains from a real store in miniature, the teacher's head fitted on the same store."""

import json
import math

import pytest
from table import CONFIGS, EXAMPLES
from tiny import HEAD, tiny_train

from pipeline.training.loop import train

SHORT = {"steps": 2, "batch_size": 4}
SWITCHES = {
    "heteroakd": {"warmup_steps": 1},  # else three steps would end before its term begins
    "maskd": {"prestage": SHORT},
    "freekd": {"prestage": SHORT},
    "dkd": {"others": 0},  # the store has two classes
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_three_steps_from_a_store_are_finite(kind, cache, runs):
    method = {"kind": kind} | SWITCHES.get(kind, {}) | EXAMPLES.get(kind, {})
    config = tiny_train(runs, cache, method=method, head=HEAD, steps=3, checkpoint_every=3, signal_every=0, name=kind)
    lines = [json.loads(line) for line in (train(config) / "metrics.jsonl").read_text().splitlines()]
    terms = [v for line in lines for k, v in line.items() if k.startswith("term/")]
    assert {line["step"] for line in lines} == {1, 2, 3}
    assert len(terms) >= 3
    assert all(map(math.isfinite, terms))
    assert all(v != 0 for k, v in lines[-1].items() if k.startswith("term/"))
