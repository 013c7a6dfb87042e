"""What every method of the table must keep; a new line of the table is tested by itself."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from table import CONFIGS, example
from torch import Tensor

from sward.contracts import HEAD_TENSORS, IGNORE, Batch, Method, StudentOutput
from sward.methods import MethodConfig
from sward.objective import Objective

CLASSES, PENULTIMATE, SIZE = 3, 9, 64
TEACHER = {"s4": 6, "s8": 8, "s16": 10, "s32": 12, "penultimate": 5, "logits": CLASSES}
LEVELS = {k: c for k, c in TEACHER.items() if k not in HEAD_TENSORS}
STUDENT = {"s2": 3, "s4": 4, "s8": 5, "s16": 6, "s32": 7}

each = pytest.mark.parametrize("kind", CONFIGS)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(channels: dict[str, int], count: int, seed: int) -> dict[str, Tensor]:
    grids = {k: SIZE // 4 if k in HEAD_TENSORS else SIZE // int(k[1:]) for k in channels}
    return {k: randn(count, c, grids[k], grids[k], seed=seed + c) for k, c in channels.items()}


def make_batch(method: Method, count: int = 2, seed: int = 0) -> Batch:
    labels = torch.randint(0, CLASSES, (count, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    labels[:, :3] = IGNORE
    features = {k: f for k, f in maps(TEACHER, count, seed).items() if k in method.needs}
    return Batch(randn(count, 3, SIZE, SIZE, seed=seed), labels, features, [f"{i:02d}/0" for i in range(count)], seed=5)


def make_output(count: int = 2, seed: int = 50) -> StudentOutput:
    logits, penultimate = randn(count, CLASSES, 16, 16, seed=seed), randn(count, PENULTIMATE, 16, 16, seed=seed + 1)
    features = {k: f.requires_grad_() for k, f in maps(STUDENT, count, seed).items()}
    return StudentOutput(logits.requires_grad_(), features, penultimate.requires_grad_())


def cast_to(output: StudentOutput, dtype: torch.dtype) -> StudentOutput:
    features = {k: f.to(dtype) for k, f in output.features.items()}
    return StudentOutput(output.logits.to(dtype), features, output.penultimate.to(dtype))


def make(kind: str) -> Method:
    return example(kind).build(TEACHER, STUDENT, CLASSES, PENULTIMATE)


def prepared(kind: str) -> Method:
    method = make(kind)
    statistics = {k: (torch.zeros(c), torch.ones(c)) for k, c in LEVELS.items()}
    method.prepare(make_batch(method), statistics)
    return method


@each
def test_the_config_is_frozen_described_and_found_by_its_kind(kind: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(MethodConfig)
    config = example(kind)
    assert adapter.validate_json(adapter.dump_json(config)) == config
    assert all(field.description for field in CONFIGS[kind].model_fields.values())
    with pytest.raises(ValidationError, match="unknown_switch"):
        adapter.validate_python(config.model_dump() | {"unknown_switch": 1})
    with pytest.raises(ValidationError, match="frozen"):
        config.kind = "other"


@each
def test_the_terms_that_change_with_the_labels_are_those_that_it_declares(kind: str) -> None:
    output, method = make_output(), prepared(kind)
    with torch.no_grad():
        first, *others = [prepared(kind)(output, relabelled(make_batch(method), seed), 3) for seed in range(8)]
    read = {name for name in first for terms in others if not torch.equal(first[name], terms[name])}
    assert read == set(method.label_terms) & set(first)


def relabelled(batch: Batch, seed: int) -> Batch:
    labels = torch.randint(0, 1 + seed % CLASSES, batch.labels.shape, generator=torch.Generator().manual_seed(seed))
    labels[0, seed * 8 :] = IGNORE
    return dataclasses.replace(batch, labels=labels)


@each
def test_without_labels_no_gradient_comes_of_the_terms_that_read_them(kind: str) -> None:
    method, output = prepared(kind), make_output()
    batch = make_batch(method)
    batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, IGNORE), labelled=0)
    terms = method(output, batch, 0)
    read = [terms[name] for name in method.label_terms if name in terms]
    assert all(term.item() == 0 for term in read)
    for term in read:
        if term.requires_grad:
            inputs = [output.logits, output.penultimate, *output.features.values()]
            found = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
            assert all(g is None or not g.any() for g in found)


@each
def test_it_has_an_equation_written_again_with_loops(kind: str) -> None:
    composed = {
        "plain",
        "sward",
        "combined",
    }  # nothing of their own: tests/mwad/test_mwad.py, tests/pdr/test_pdr.py, the parts
    file = Path(__file__).parents[1] / "methods" / f"test_{kind}.py"
    assert kind in composed or "loops" in file.read_text()


@each
def test_it_needs_levels_the_teacher_has_and_weighs_exactly_its_terms(kind: str) -> None:
    method = prepared(kind)
    assert set(method.needs) <= set(TEACHER)
    terms = method(make_output(), make_batch(method), 0)
    assert {"task", *terms} == set(method.weights)
    assert "task" not in terms
    for term in terms.values():
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert term.isfinite()


@each
def test_it_runs_on_what_it_needs_and_names_the_command_that_adds_what_is_missing(kind: str) -> None:
    reads_head = set(HEAD_TENSORS) & set(make(kind).needs)
    assert example(kind).uses_head or not reads_head
    if reads_head:
        with pytest.raises(ValueError, match=r"(logits|penultimate).*sward fit-head"):
            example(kind).build(LEVELS, STUDENT, CLASSES, PENULTIMATE)
    else:
        example(kind).build(LEVELS, STUDENT, CLASSES, PENULTIMATE)


@each
def test_the_order_of_the_batch_does_not_matter_where_it_is_said_not_to(kind: str) -> None:
    method, other = prepared(kind), prepared(kind)
    output, batch = make_output(3), make_batch(method, 3)
    turned = StudentOutput(
        output.logits.flip(0), {k: f.flip(0) for k, f in output.features.items()}, output.penultimate.flip(0)
    )
    features = {k: f.flip(0) for k, f in batch.features.items()}
    back = Batch(batch.images.flip(0), batch.labels.flip(0), features, batch.ids[::-1], seed=5)
    a, b = method(output, batch, 200), other(turned, back, 200)
    if method.order_invariant:
        assert all(torch.isclose(a[k], b[k], rtol=1e-4) for k in a)
    else:
        assert any(not torch.isclose(a[k], b[k], rtol=1e-4) for k in a)


@each
def test_a_step_repeats_bit_for_bit_and_draws_nothing_from_the_global_generator(kind: str) -> None:
    before = torch.get_rng_state()
    first, second = prepared(kind), prepared(kind)
    for step in (0, 7):
        a, b = (m(make_output(), make_batch(m), step) for m in (first, second))
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(before, torch.get_rng_state())


@each
def test_whatever_it_trains_gets_a_gradient_and_the_teacher_gets_none(kind: str) -> None:
    method = prepared(kind)
    output, batch = make_output(), make_batch(method)
    for f in batch.features.values():
        f.requires_grad_()
    Objective(method)(output, batch, 0).total.backward()
    assert all(f.grad is None for f in batch.features.values())
    reached = [*output.features.values(), output.logits, output.penultimate]
    assert all(t.grad is None or t.grad.isfinite().all() for t in reached)
    assert output.logits.grad is not None


@each
def test_everything_it_trains_has_a_gradient_other_than_zero_within_three_steps(kind: str) -> None:
    method = prepared(kind)
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    idle = set(trained)
    optimizer = torch.optim.SGD(trained.values(), lr=1e-3) if trained else None
    for step in range(3):  # CanKD starts at zero: what lies before its last layer learns from the second step on
        method.zero_grad()
        Objective(method)(make_output(seed=50 + step), make_batch(method, seed=step), 200 + step).total.backward()
        idle -= {name for name in idle if (g := trained[name].grad) is not None and g.count_nonzero()}
        if optimizer is not None:
            optimizer.step()
    assert idle == set()
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)


@each
def test_a_loaded_state_continues_as_the_one_saved(kind: str) -> None:
    method, restored = prepared(kind), make(kind)
    restored.load_state_dict(method.state_dict())
    twin = copy.deepcopy(method)
    a, b, c = (m(make_output(), make_batch(m), 3) for m in (method, restored, twin))
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], c[k]) for k in a)


@each
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_maps_of_both_networks_give_the_terms_of_float32(kind: str, half: torch.dtype) -> None:
    method, twin = prepared(kind), prepared(kind)
    batch, output = make_batch(method), make_output()
    batch.features = {k: f.to(half) for k, f in batch.features.items()}
    output = cast_to(output, half)
    with torch.autocast("cpu", half):
        found = method(output, batch, 200)
    batch.features = {k: f.float() for k, f in batch.features.items()}
    wanted = twin(cast_to(output, torch.float32), batch, 200)
    assert all(term.dtype == torch.float32 for term in found.values())
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in wanted.items()}, rel=1e-4)


@each
@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_without_a_counted_pixel_is_finite(kind: str, count: int) -> None:
    method = prepared(kind)
    batch, output = make_batch(method, count), make_output(count)
    batch.labels.fill_(IGNORE)
    losses = Objective(method)(output, batch, 0)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(f.grad is None or f.grad.isfinite().all() for f in output.features.values())


@each
def test_monitors_are_numbers_by_name_and_change_nothing(kind: str) -> None:
    method = prepared(kind)
    output, batch = make_output(), make_batch(method)
    before = method(output, batch, 0)
    found = method.monitors()
    assert all(isinstance(value, float) and name.count("/") == 2 for name, value in found.items())
    after = method(output, batch, 0)
    assert all(torch.equal(before[k], after[k]) for k in before)


@each
def test_training_lowers_the_methods_own_weighted_terms(kind: str) -> None:
    method = prepared(kind)
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
