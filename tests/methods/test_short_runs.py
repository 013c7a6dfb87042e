"""Every method of the table trains from a real store in miniature."""

import json
import math
from typing import get_args

import pytest
from tiny import tiny_cache, tiny_train

from pipeline.cache.extract import extract
from pipeline.training.loop import train
from sward.methods import MethodConfig

SWITCHES = {"heteroakd": {"warmup_steps": 1}}  # else three steps would end before its term begins
KINDS = [c.model_fields["kind"].default for c in get_args(get_args(MethodConfig)[0])]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    config = tiny_cache(tmp_path_factory.mktemp("cache"))
    extract(config)
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_from_a_store_are_finite(kind, cache, tmp_path):
    method = {"kind": kind} | SWITCHES.get(kind, {})
    folder = train(tiny_train(tmp_path, cache, method=method, steps=3, checkpoint_every=3, signal_every=0))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    terms = [v for line in lines for k, v in line.items() if k.startswith("term/")]
    assert {line["step"] for line in lines} == {1, 2, 3}
    assert len(terms) >= 3
    assert all(map(math.isfinite, terms))
    assert all(v != 0 for k, v in lines[-1].items() if k.startswith("term/"))
