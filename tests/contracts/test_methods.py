"""What every method of the table must keep; a new line of the table is tested by itself."""

import copy
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from sward.contracts import IGNORE, Batch, Config, Method, StudentOutput
from sward.methods import MethodConfig
from sward.objective import Objective

CONFIGS: list[type[Config]] = list(get_args(get_args(MethodConfig)[0]))
TEACHER = {"s4": 6, "s8": 8, "s16": 10, "s32": 12}
STUDENT = {"s2": 3, "s4": 4, "s8": 5, "s16": 6, "s32": 7}
CLASSES, PENULTIMATE, SIZE = 3, 9, 64

each = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_fields["kind"].default)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(channels: dict[str, int], count: int, seed: int) -> dict[str, Tensor]:
    return {k: randn(count, c, SIZE // int(k[1:]), SIZE // int(k[1:]), seed=seed + c) for k, c in channels.items()}


def make_batch(method: Method, count: int = 2, seed: int = 0) -> Batch:
    labels = torch.randint(0, CLASSES, (count, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    labels[:, :3] = IGNORE
    features = {k: f for k, f in maps(TEACHER, count, seed).items() if k in method.needs}
    return Batch(randn(count, 3, SIZE, SIZE, seed=seed), labels, features, [f"{i:02d}/0" for i in range(count)], seed=5)


def make_output(count: int = 2, seed: int = 50) -> StudentOutput:
    logits, penultimate = randn(count, CLASSES, 16, 16, seed=seed), randn(count, PENULTIMATE, 16, 16, seed=seed + 1)
    features = {k: f.requires_grad_() for k, f in maps(STUDENT, count, seed).items()}
    return StudentOutput(logits.requires_grad_(), features, penultimate.requires_grad_())


def make(config: type[Config]) -> Method:
    return config().build(TEACHER, STUDENT, CLASSES, PENULTIMATE)


def prepared(config: type[Config]) -> Method:
    method = make(config)
    statistics = {k: (torch.zeros(c), torch.ones(c)) for k, c in TEACHER.items()}
    method.prepare(make_batch(method), statistics)
    return method


@each
def test_the_config_is_frozen_described_and_found_by_its_kind(config: type[Config]) -> None:
    kind = config.model_fields["kind"].default
    adapter: TypeAdapter[Any] = TypeAdapter(MethodConfig)
    assert adapter.validate_python({"kind": kind}) == config()
    assert adapter.validate_json(adapter.dump_json(config())) == config()
    assert all(field.description for field in config.model_fields.values())
    with pytest.raises(ValidationError, match="unknown_switch"):
        adapter.validate_python({"kind": kind, "unknown_switch": 1})
    with pytest.raises(ValidationError, match="frozen"):
        config().kind = "other"


@each
def test_it_needs_levels_the_teacher_has_and_weighs_exactly_its_terms(config: type[Config]) -> None:
    method = prepared(config)
    assert set(method.needs) <= set(TEACHER)
    terms = method(make_output(), make_batch(method), 0)
    assert {"task", *terms} == set(method.weights)
    assert "task" not in terms
    for term in terms.values():
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert term.isfinite()


@each
def test_a_step_repeats_bit_for_bit_and_draws_nothing_from_the_global_generator(config: type[Config]) -> None:
    before = torch.get_rng_state()
    first, second = prepared(config), prepared(config)
    for step in (0, 7):
        a, b = (m(make_output(), make_batch(m), step) for m in (first, second))
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(before, torch.get_rng_state())


@each
def test_whatever_it_trains_gets_a_gradient_and_the_teacher_gets_none(config: type[Config]) -> None:
    method = prepared(config)
    output, batch = make_output(), make_batch(method)
    for f in batch.features.values():
        f.requires_grad_()
    Objective(method)(output, batch, 0).total.backward()
    assert all(f.grad is None for f in batch.features.values())
    missing = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    reached = [*output.features.values(), output.logits, output.penultimate]
    assert all(t.grad is None or t.grad.isfinite().all() for t in reached)
    assert output.logits.grad is not None


@each
def test_a_loaded_state_continues_as_the_one_saved(config: type[Config]) -> None:
    method, restored = prepared(config), make(config)
    restored.load_state_dict(method.state_dict())
    twin = copy.deepcopy(method)
    a, b, c = (m(make_output(), make_batch(m), 3) for m in (method, restored, twin))
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], c[k]) for k in a)


@each
def test_half_precision_features_give_float32_terms(config: type[Config]) -> None:
    method = prepared(config)
    batch, output = make_batch(method), make_output()
    batch.features = {k: f.half() for k, f in batch.features.items()}
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(output, batch, 0)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


@each
@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_without_a_counted_pixel_is_finite(config: type[Config], count: int) -> None:
    method = prepared(config)
    batch, output = make_batch(method, count), make_output(count)
    batch.labels.fill_(IGNORE)
    losses = Objective(method)(output, batch, 0)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(f.grad is None or f.grad.isfinite().all() for f in output.features.values())


@each
def test_monitors_are_numbers_by_name_and_change_nothing(config: type[Config]) -> None:
    method = prepared(config)
    output, batch = make_output(), make_batch(method)
    before = method(output, batch, 0)
    found = method.monitors()
    assert all(isinstance(value, float) and name.count("/") == 2 for name, value in found.items())
    after = method(output, batch, 0)
    assert all(torch.equal(before[k], after[k]) for k in before)


@each
def test_training_lowers_the_methods_own_weighted_terms(config: type[Config]) -> None:
    method = prepared(config)
    batch, output = make_batch(method), make_output()
    trained = [*output.features.values(), output.logits, output.penultimate, *method.parameters()]
    optimizer = torch.optim.Adam([t for t in trained if t.requires_grad], lr=0.02)
    totals = []
    for _ in range(15):
        optimizer.zero_grad()
        losses = Objective(method)(output, batch, 0)
        losses.total.backward()
        optimizer.step()
        totals.append(losses.total.item())
    assert totals[-1] < totals[0]
