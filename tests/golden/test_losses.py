"""Numbers that must not move: both presets of SWARD on inputs and weights that no library version can change.

``python tests/golden/test_losses.py`` writes them anew; do so only for an intended change of the method.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sward import seeds
from sward.contracts import Batch, StudentOutput
from sward.methods.sward import Sward, SwardConfig

GOLDEN = Path(__file__).with_name("losses.json")
TEACHER, STUDENT = {"s8": 6, "s16": 8}, {"s8": 3, "s16": 4}
SIZES = {"s8": (12, 13), "s16": (6, 7)}


def uniform(*shape: int, name: str) -> Tensor:
    numbers = seeds.uniforms(int(torch.tensor(shape).prod()), "golden", name)
    return torch.from_numpy(2 * numbers - 1).view(shape)


def terms(preset: str) -> dict[str, float]:
    config = SwardConfig.model_validate({"mwad": {"preset": preset, "window": 4}, "pdr": {"preset": preset}})
    method = Sward(config, TEACHER, STUDENT, num_classes=3).double()
    method.load_state_dict(
        {k: uniform(*v.shape, name=k) for k, v in method.state_dict().items() if v.ndim}, strict=False
    )
    for k, buffer in method.named_buffers():
        buffer.copy_(buffer.abs() + 0.5 if k.endswith("std") else buffer)
    method.mwad.prepared.fill_(True)
    features = {k: uniform(2, c, *SIZES[k], name=f"teacher {k}") for k, c in TEACHER.items()}
    student = {k: uniform(2, c, *SIZES[k], name=f"student {k}") for k, c in STUDENT.items()}
    labels = torch.from_numpy(seeds.integers(2 * 24 * 28, 3, "golden", "labels")).view(2, 24, 28)
    batch = Batch(uniform(2, 3, 24, 28, name="images"), labels, features, ["a/0", "b/0"], seed=11)
    output = StudentOutput(uniform(2, 3, 12, 14, name="logits"), student, student["s8"])
    return {name: term.item() for name, term in method(output, batch, step=4).items()}


@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_the_losses_have_the_values_on_record(preset: str) -> None:
    assert terms(preset) == pytest.approx(json.loads(GOLDEN.read_text())[preset], rel=1e-9)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({preset: terms(preset) for preset in ("recommended", "paper")}, indent=2) + "\n")
