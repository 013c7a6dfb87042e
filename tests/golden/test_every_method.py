"""One number a term that must not move, for every method of the table, on inputs no library version can change.

``PYTHONPATH=tests python tests/golden/test_every_method.py`` writes them anew; do so only for an intended change.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from table import CONFIGS, example
from torch import Tensor

from sward import seeds
from sward.contracts import Batch, StudentOutput
from sward.methods import MethodConfig

GOLDEN = Path(__file__).with_name("methods.json")
VARIANTS = {"cirkd v2": {"kind": "cirkd", "version": "v2"}}  # with terms that the defaults leave out
TEACHER = {"s4": 3, "s8": 4, "s16": 5, "s32": 6, "penultimate": 4, "logits": 3}
STUDENT = {"s4": 2, "s8": 3, "s16": 4, "s32": 5}
SIDES = {"s4": 16, "s8": 8, "s16": 4, "s32": 2, "penultimate": 16, "logits": 16}


def uniform(*shape: int, name: str) -> Tensor:
    numbers = seeds.uniforms(int(torch.tensor(shape).prod()), "golden", name)
    return torch.from_numpy(2 * numbers - 1).view(shape)


def maps(channels: dict[str, int], who: str) -> dict[str, Tensor]:
    return {k: uniform(2, c, SIDES[k], SIDES[k], name=f"{who} {k}") for k, c in channels.items()}


def config(name: str) -> Any:
    return TypeAdapter(MethodConfig).validate_python(VARIANTS[name]) if name in VARIANTS else example(name)


def terms(name: str) -> dict[str, float]:
    method = config(name).build(TEACHER, STUDENT, 3, 4).double()
    features = maps({k: c for k, c in TEACHER.items() if k in method.needs}, "teacher")
    labels = torch.from_numpy(seeds.integers(2 * 64 * 64, 3, "golden", "labels")).view(2, 64, 64)
    batch = Batch(uniform(2, 3, 64, 64, name="images"), labels, features, ["a/0", "b/0"], seed=11)
    method.prepare(batch, {k: (torch.zeros(c), torch.ones(c)) for k, c in TEACHER.items() if k.startswith("s")})
    state: dict[str, Any] = {k: uniform(*p.shape, name=k) for k, p in method.named_parameters()}
    method.load_state_dict(state, strict=False)
    output = StudentOutput(
        uniform(2, 3, 32, 32, name="logits"), maps(STUDENT, "student"), uniform(2, 4, 32, 32, name="penultimate")
    )
    return {name: term.item() for name, term in method(output, batch, step=200).items()}


@pytest.mark.parametrize("name", [*CONFIGS, *VARIANTS])
def test_the_terms_have_the_values_on_record(name: str) -> None:
    recorded = json.loads(GOLDEN.read_text())
    assert name in recorded, f"record it, see {Path(__file__).name} (only where the change is meant)"
    assert terms(name) == pytest.approx(recorded[name], rel=1e-6)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: terms(name) for name in [*CONFIGS, *VARIANTS]}, indent=2) + "\n")
