"""The objective: cross-entropy, weighting, the finite check; and the relational monitors."""

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sward.contracts import IGNORE, Batch, Method, StudentOutput
from sward.methods.sward import SwardConfig
from sward.mwad.monitors import alarms, normalised_entropy, relational_signal
from sward.objective import Losses, NonFiniteError, Objective, gradient_shares
from sward.task import cross_entropy


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Two(Method):
    """Terms ``a`` (of the features) and ``b`` (of the images)."""

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"a": output.features["s8"].square().mean(), "b": batch.images.mean() ** 2 + step}


def step_input() -> tuple[StudentOutput, Batch]:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    batch = Batch(randn(2, 3, 8, 8), labels, {"s8": randn(2, 5, 1, 1)}, ["first/0", "second/1"])
    return StudentOutput(randn(2, 3, 4, 4), {"s8": randn(2, 4, 1, 1)}, randn(2, 6, 4, 4)), batch


def test_the_total_is_the_weighted_sum_and_terms_stay_unweighted() -> None:
    output, batch = step_input()
    losses = Objective(Two({"task": 1.0, "a": 2.0, "b": 0.5}))(output, batch, step=3)
    a, b = output.features["s8"].square().mean(), batch.images.mean() ** 2 + 3
    task = cross_entropy(output.logits, batch.labels)
    assert losses.terms == {"task": task, "a": a, "b": b}
    assert losses.weighted == {"task": task, "a": 2 * a, "b": 0.5 * b}
    torch.testing.assert_close(losses.total, task + 2 * a + 0.5 * b)


@pytest.mark.parametrize("weights", [{"task": 1.0, "a": 1.0}, {"task": 1.0, "a": 1.0, "b": 1.0, "c": 1.0}])
def test_terms_and_weights_must_name_the_same_things(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Two: .*without a weight: \[('b')?\], without a term: \[('c')?\]"):
        Objective(Two(weights))(*step_input(), step=0)


def test_cross_entropy_is_that_of_upsampled_logits_over_counted_pixels() -> None:
    logits, labels = randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 8))
    labels[0, :4] = IGNORE
    z = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False).log_softmax(1)
    picked = [-z[b, labels[b, y, x], y, x] for b, y, x in (labels != IGNORE).nonzero().tolist()]
    torch.testing.assert_close(cross_entropy(logits, labels), torch.stack(picked).mean())
    torch.testing.assert_close(
        cross_entropy(logits, labels),
        F.cross_entropy(F.interpolate(logits, (8, 8), mode="bilinear"), labels, ignore_index=IGNORE),
    )
    assert cross_entropy(logits.half(), labels).dtype == torch.float32


def test_a_batch_without_a_counted_pixel_costs_nothing_and_moves_nothing() -> None:
    logits = randn(1, 3, 4, 4).requires_grad_()
    loss = cross_entropy(logits, torch.full((1, 8, 8), IGNORE))
    loss.backward()
    assert loss == 0
    assert logits.grad.eq(0).all()


def test_finite_losses_pass_and_a_nan_names_the_term_and_the_sample() -> None:
    output, batch = step_input()
    objective = Objective(Two({"task": 1.0, "a": 2.0, "b": 0.5}))
    objective.check_finite(objective(output, batch, 0), output, batch, 0)
    output.features["s8"][1] = math.nan
    losses = objective(output, batch, 7)
    with pytest.raises(NonFiniteError, match=r"step 7: not finite: a\. Samples: second/1 \(student s8, term a\)\."):
        objective.check_finite(losses, output, batch, 7)


def test_a_nan_that_no_sample_has_alone_is_said_to_be_the_batchs() -> None:
    output, batch = step_input()
    objective = Objective(Two({"task": 1.0, "a": 2.0, "b": 0.5}))
    losses = objective(output, batch, 0)
    with pytest.raises(NonFiniteError, match=r"the weighted sum\. Samples: none alone, only the batch together"):
        objective.check_finite(replace(losses, total=torch.tensor(math.inf)), output, batch, 0)


def test_the_papers_weights_reach_every_term() -> None:
    method = SwardConfig(lambda1=3, lambda2=0.5, gamma=2).build({"s8": 5}, {"s8": 4}, 2, 6)
    assert method.weights == {"task": 1, "attn": 2, "value": 2, "context": 2, "separation": 6, "compactness": 1}
    assert SwardConfig(beta=0).build({"s8": 5}, {"s8": 4}, 2, 6).weights.keys() == {"task", "separation", "compactness"}
    assert SwardConfig(gamma=0, mwad={"terms": "attn"}).build({"s8": 5}, {"s8": 4}, 2, 6).weights == {
        "task": 1,
        "attn": 2,
    }


def test_without_mwad_no_teacher_level_is_read() -> None:
    assert SwardConfig(beta=0).build({"s8": 5}, {"s8": 4}, 2, 6).needs == ()
    assert SwardConfig().build({"s4": 3, "s8": 5}, {"s2": 2, "s8": 4}, 2, 6).needs == ("s4", "s8")
    assert SwardConfig().build({"s4": 3, "s8": 5}, {"s8": 4}, 2, 6).needs == ("s8",)


def test_an_unknown_pdr_level_is_refused_with_the_students_levels() -> None:
    with pytest.raises(ValueError, match=r"pdr.features is s16; this student has \['s8'\]"):
        SwardConfig(pdr={"features": "s16"}).build({"s8": 5}, {"s8": 4}, 2, 6)


# ---- monitors ---------------------------------------------------------------------------------------------


def test_entropy_is_one_for_uniform_and_zero_for_one_hot_attention() -> None:
    uniform = torch.zeros(2, 3, 4, 4).log_softmax(-1)
    one_hot = (1e4 * torch.eye(4)).expand(2, 3, 4, 4).log_softmax(-1)
    torch.testing.assert_close(normalised_entropy(uniform), torch.tensor(1.0))
    assert normalised_entropy(one_hot) == 0
    assert normalised_entropy(torch.zeros(2, 3, 1, 1)) == 1


def test_entropy_is_relative_to_the_keys_in_sight() -> None:
    visible = torch.ones(3, 4, 4, dtype=torch.bool)
    visible[1, :, 2:] = False
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[1, 2:] = False
    logA = torch.zeros(2, 3, 4, 4).masked_fill(~visible, -1e30).log_softmax(-1)
    torch.testing.assert_close(normalised_entropy(logA, visible, valid), torch.tensor(1.0))


def test_value_monitors_equal_their_definitions() -> None:
    V = 0.5 + randn(2, 3, 4, 5)
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[0, 1] = False
    found = relational_signal(torch.zeros(2, 3, 4, 4).log_softmax(-1), V, None, valid)
    v = V[:, valid].reshape(-1, 5)
    pairs = [F.cosine_similarity(v[i], v[j], dim=0) for i in range(len(v)) for j in range(len(v)) if i != j]
    torch.testing.assert_close(found["cosine"], torch.stack(pairs).mean())
    torch.testing.assert_close(found["norm"], v.norm(dim=1).mean())
    torch.testing.assert_close(found["spread"], (v - v.mean(0)).square().sum(1).mean().sqrt() / found["norm"])


def test_alarms_name_the_level_and_the_remedy() -> None:
    fine = {"signal/s8/entropy": 0.65, "signal/s8/cosine": 0.3, "signal/s8/norm": 99.0}
    assert alarms(fine) == []
    found = alarms(fine | {"signal/s16/entropy": 0.99, "signal/s4/cosine": math.nan})
    assert len(found) == 2
    assert "signal/s16/entropy = 0.990, above 0.98" in found[0]
    assert "teacher_proj: frozen" in found[1]


def test_gradient_shares_are_the_weighted_norms_over_their_sum() -> None:
    p, q = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor(1.0, requires_grad=True)
    weighted = {"one": p.sum(), "two": 2 * p[0] + q, "none": torch.tensor(1.0), "other": (2 * q).exp()}
    losses = Losses(torch.stack(list(weighted.values())).sum(), weighted, weighted)
    shares = gradient_shares(losses, [p])
    total = math.sqrt(2) + 2
    assert shares == pytest.approx({"one": math.sqrt(2) / total, "two": 2 / total, "none": 0, "other": 0})
    losses.total.backward()  # the graph is kept
    assert p.grad is not None
    assert gradient_shares(Losses(p.sum(), {}, {"none": torch.tensor(1.0)}), [p]) == {"none": 0.0}


def test_the_message_about_a_loss_that_is_not_finite_names_only_precisions_that_a_run_may_have():
    from typing import get_args

    from pipeline.training.config import TrainConfig

    text = Path(inspect.getfile(Objective)).read_text()
    named = set(re.findall(r"(?:bf)?16-\w+|32-true", text))
    assert named == set(get_args(TrainConfig.model_fields["precision"].annotation))
