"""Gradient balancing: the factors from measured norms, their memory, and configurations that it refuses."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from sward.balance import gradient_norm
from sward.contracts import BalanceConfig, Batch, Method, StudentOutput
from sward.methods import MethodConfig
from sward.methods.kd import KDConfig
from sward.methods.plain import PlainConfig
from sward.objective import Objective, gradient_shares


class Scaled(Method):
    """Terms ``x.a``, ``x.b`` and ``y.c`` of the student's map, in parts ``x`` and ``y``."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = {"task": 2.0, "x.a": 3.0, "x.b": 0.5, "y.c": 100.0}
        self.adapter = nn.Parameter(torch.ones(()))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        return {"x": ("x.a", "x.b"), "y": ("y.c",), "empty": ()}

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        f = self.adapter * output.features["s8"]
        return {"x.a": f.square().mean(), "x.b": f.abs().mean(), "y.c": (f - 1).square().mean() * (step < 100)}


def student() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def losses_of(objective: Objective, network: nn.Linear, step: int = 0) -> tuple:
    """Weighted at ``step``, the batch being the step's own; and the parameters."""
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    z = network(x)[:, :, None, None]
    batch = Batch(x, torch.tensor([[[0]], [[2]]]), {}, ["a/0", "b/0"])
    parameters = list(network.parameters())
    losses = objective(StudentOutput(z, {"s8": z}, z), batch, step)
    return objective.balanced(losses, step, parameters), parameters


def norms(losses, parameters) -> dict[str, float]:
    """Of the task and of each part."""
    w = losses.weighted
    parts = {"task": w["task"], "x": w["x.a"] + w["x.b"], "y": w["y.c"]}
    return {name: gradient_norm(part, parameters).item() for name, part in parts.items()}


@pytest.mark.parametrize("share", [0.5, {"x": 0.25, "y": 2.0}], ids=str)
def test_at_a_measured_step_each_parts_gradient_is_its_share_of_the_tasks(share) -> None:
    losses, parameters = losses_of(Objective(Scaled(), balance=BalanceConfig(share=share)), student())
    found = norms(losses, parameters)
    wanted = share if isinstance(share, dict) else {"x": share, "y": share}
    assert {k: found[k] / found["task"] for k in ("x", "y")} == pytest.approx(wanted, rel=1e-6)
    assert losses.weighted["task"] == 2 * losses.terms["task"]
    a, b = ((losses.weighted[name] / losses.terms[name]).item() for name in ("x.a", "x.b"))
    assert a == pytest.approx(6 * b)  # within a part the method's weights decide
    torch.testing.assert_close(losses.total, sum(losses.weighted.values()))


def test_how_large_the_methods_weights_are_does_not_matter() -> None:
    large, small = Scaled(), Scaled()
    small.weights = {"task": 2.0, "x.a": 3e-6, "x.b": 0.5e-6, "y.c": 1e-6}
    a, b = (losses_of(Objective(method, balance=BalanceConfig()), student())[0].total for method in (large, small))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def test_norms_are_smoothed_and_factors_stay_between_measurements() -> None:
    network, objective = student(), Objective(Scaled(), balance=BalanceConfig(every=2, decay=0.75))
    plain = Objective(Scaled())
    means: Tensor | None = None
    for step in range(5):
        losses, parameters = losses_of(objective, network, step)
        if step % 2 == 0:
            raw = norms(losses_of(plain, network, step)[0], parameters)
            now = torch.tensor(list(raw.values()), dtype=torch.float32)
            means = now if means is None else 0.75 * means + 0.25 * now
        torch.testing.assert_close(objective.balance.norms, means)
        for part, term, i in (("x", "x.a", 1), ("y", "y.c", 2)):
            factor = objective.factors()[f"balance/{part}"]
            assert factor == pytest.approx(0.5 * (means[0] / means[i]).item(), rel=1e-6)
            assert (losses.weighted[term] / losses.terms[term]).item() == pytest.approx(
                factor * plain.method.weights[term], rel=1e-6
            )


def test_a_part_without_a_gradient_keeps_its_last_factor_and_has_one_before_any() -> None:
    network, objective = student(), Objective(Scaled(), balance=BalanceConfig(every=1))
    late = Objective(Scaled(), balance=BalanceConfig(every=1))
    losses_of(late, network, 100)  # y is 0 from step 100 on
    assert late.factors()["balance/y"] == 1
    losses_of(objective, network, 0)
    before = objective.balance.norms.clone()
    losses_of(objective, network, 100)
    assert objective.balance.norms[2] == before[2]
    assert objective.balance.norms[1] != before[1]


def test_before_the_first_measurement_the_weights_are_the_methods() -> None:
    objective = Objective(Scaled(), balance=BalanceConfig())
    assert objective.factors() == {"balance/x": 1, "balance/y": 1}


def test_measuring_leaves_gradients_and_graph_alone() -> None:
    network, objective = student(), Objective(Scaled(), balance=BalanceConfig())
    losses, parameters = losses_of(objective, network)
    assert all(p.grad is None for p in (*parameters, *objective.parameters()))
    assert set(gradient_shares(losses, parameters)) == {"task", "x.a", "x.b", "y.c"}
    losses.total.backward()
    assert all(p.grad is not None for p in (*parameters, *objective.parameters()))


def test_the_means_are_a_buffer_and_without_balance_there_is_none() -> None:
    network, objective = student(), Objective(Scaled(), balance=BalanceConfig(every=2))
    for step in range(3):
        losses_of(objective, network, step)
    restored = Objective(Scaled(), balance=BalanceConfig(every=2))
    restored.load_state_dict(objective.state_dict())
    a, b = (losses_of(o, network, 3)[0] for o in (objective, restored))
    assert torch.equal(a.total, b.total)
    assert set(objective.state_dict()) - set(Objective(Scaled()).state_dict()) == {"balance.norms"}


def test_without_balance_nothing_is_measured_or_logged() -> None:
    objective = Objective(Scaled())
    losses, parameters = losses_of(objective, student())
    assert objective.balanced(losses, 0, parameters) is losses
    assert objective.factors() == {}


def test_a_combination_is_balanced_part_by_part_and_another_method_as_a_whole() -> None:
    parts = {"hint": {"kind": "fitnet"}, "pdr": {"kind": "sward", "beta": 0}}
    config = TypeAdapter(MethodConfig).validate_python({"kind": "combined", "parts": parts, "balance": "gradient"})
    whole = config.build({"s32": 4}, {"s32": 3}, 3, 3)
    assert whole.groups == {"hint": ("hint.hint",), "pdr": ("pdr.separation", "pdr.compactness")}
    assert KDConfig().build({"logits": 3}, {"s32": 3}, 3, 3).groups == {"method": ("kd",)}


def test_configurations_that_cannot_be_balanced_are_refused() -> None:
    with pytest.raises(ValueError, match="Plain has no term of its own to balance; leave `balance` out"):
        Objective(PlainConfig().build({}, {}, 2, 3), balance=BalanceConfig())
    with pytest.raises(ValueError, match=r"balance\.share names \['x', 'z'\], the method's parts are \['x', 'y'\]"):
        Objective(Scaled(), balance=BalanceConfig(share={"x": 1, "z": 1}))
    with pytest.raises(ValidationError, match="balance is set once, on the whole; remove it from at"):
        TypeAdapter(MethodConfig).validate_python(
            {"kind": "combined", "parts": {"at": {"kind": "at", "balance": "gradient"}}}
        )
    with pytest.raises(ValidationError, match="gradient"):
        KDConfig(balance="uncertainty")


def test_an_unused_balance_leaves_no_trace_in_what_is_saved() -> None:
    adapter = TypeAdapter(MethodConfig)
    assert "balance" not in adapter.dump_python(KDConfig())
    used = KDConfig(balance="gradient")
    assert used.balance == BalanceConfig(share=0.5, every=10, decay=0.9)
    assert adapter.validate_python(adapter.dump_python(used, mode="json")) == used
    nested = adapter.validate_python({"kind": "combined", "parts": {"kd": {"kind": "kd"}}})
    assert "balance" not in repr(adapter.dump_json(nested))
