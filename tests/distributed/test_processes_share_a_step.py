"""Two real processes (gloo) with a part of the batch each have the losses and gradients of one with all of it."""

import json
import os
import traceback
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from contracts.test_methods import make_batch, make_output, prepared
from pydantic import TypeAdapter
from table import CONFIGS
from torch import nn

from sward import seeds
from sward.contracts import IGNORE, BalanceConfig, StudentOutput
from sward.distributed.collectives import BatchSlice, current_slice
from sward.distributed.synced_layers import sharing
from sward.methods import MethodConfig
from sward.objective import Objective
from sward.students import StudentConfig, build_student
from sward.students.inputs import output_for
from sward.task import cross_entropy

WHOLE = 3  # of two processes, one has two records
STUDENTS = {
    "unext": {"kind": "unext"},
    "deeplabv3": {"kind": "deeplabv3"},  # dropout, and timm's batch norm
    "deeplabv3, channels last": {"kind": "deeplabv3"},  # whose mask is drawn in that order
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """What failed in either process, by check and subject; all is checked at once, for a start takes seconds."""
    folder = tmp_path_factory.mktemp("together")
    torch.multiprocessing.spawn(member, (folder,), nprocs=2)
    both = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return {key: both[0][key] + both[1][key] for key in both[0]}


def member(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the host's own name may lead nowhere
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {}
    for check, subjects in (
        (check_method, CONFIGS),
        (check_student, STUDENTS),
        (check_layer, LAYERS),
        (check_balance, BALANCED),
        (check_unlabelled, MIXED),
    ):
        for subject in subjects:
            try:
                check(BatchSlice(WHOLE, rank, 2).rows, subject)
                found[f"{check.__name__} {subject}"] = ""
            except Exception:
                found[f"{check.__name__} {subject}"] = traceback.format_exc()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    with suppress(RuntimeError):  # all is said: how the two part, and who is first, does not matter
        dist.barrier()
        dist.destroy_process_group()


def gradient(module, processes=1):
    """Of all its parameters in one vector; of several processes the mean, as DDP takes it."""
    found = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in found]) if found else torch.zeros(1)
    if processes > 1:
        dist.all_reduce(flat)
    return flat / processes


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_method_has_the_terms_and_gradients_of_one_process(failures, kind):
    assert not failures[f"check_method {kind}"]


def check_method(rows, kind):
    alone, shared = Objective(prepared(kind)), Objective(prepared(kind))
    for step in (200, 201) if kind == "cirkd" else (200,):  # its memories are filled by the first
        batch, whole, part = make_batch(alone.method, WHOLE, seed=step), make_output(WHOLE), make_output(WHOLE)
        batch.labels[0, :40] = IGNORE  # a mean over pixels is not the mean of the records' means
        part = StudentOutput(
            part.logits.detach()[rows].requires_grad_(),
            {k: f.detach()[rows].requires_grad_() for k, f in part.features.items()},
            part.penultimate.detach()[rows].requires_grad_(),
        )
        features = {k: f[rows] for k, f in batch.features.items()}
        own = replace(batch, images=batch.images[rows], labels=batch.labels[rows], features=features)
        wanted = alone(whole, batch, step)
        with sharing(WHOLE):
            found = shared(part, own, step)
        for name in wanted.terms:
            torch.testing.assert_close(found.terms[name], wanted.terms[name], rtol=2e-5, atol=1e-6)
        alone.zero_grad()
        shared.zero_grad()
        wanted.total.backward()
        found.total.backward()
        for name in ("logits", "penultimate", *whole.features):
            close(part.tensor(name).grad, whole.tensor(name).grad, lambda grad: 2 * grad[rows])  # DDP takes the mean
        close(gradient(shared, processes=2), gradient(alone))


def close(found, wanted, share=lambda grad: grad):
    if wanted is None:
        assert found is None
        return
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found, share(wanted), rtol=1e-3, atol=2e-5 * scale + 1e-9)


@pytest.mark.parametrize("student", STUDENTS)
def test_every_student_has_the_outputs_statistics_and_gradients_of_one_process(failures, student):
    assert not failures[f"check_student {student}"]


def check_student(rows, kind):
    config = TypeAdapter(StudentConfig).validate_python(STUDENTS[kind])
    # float64: batch norm over three small images enlarges float32's rounding, by which processors differ
    alone, shared = (build_student(config, 3, seed=0).double() for _ in range(2))
    if "channels last" in kind:
        alone, shared = (student.to(memory_format=torch.channels_last) for student in (alone, shared))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(WHOLE, 3, 64, 64, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (WHOLE, 64, 64), generator=generator)
    torch.manual_seed(seeds.torch_seed(0, "step", 0))
    wanted = alone.train()(images)
    after = torch.get_rng_state()
    cross_entropy(wanted.logits, labels).backward()
    torch.manual_seed(seeds.torch_seed(0, "step", 0))
    with sharing(WHOLE):
        found = shared.train()(images[rows])
        assert torch.equal(torch.get_rng_state(), after)
        cross_entropy(found.logits, labels[rows]).backward()
    torch.testing.assert_close(found.logits, wanted.logits[rows], rtol=1e-10, atol=1e-11)
    for (name, a), b in zip(alone.named_buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    flat = gradient(alone)
    assert (gradient(shared, processes=2) - flat).norm() < 1e-9 * flat.norm()


class Draws(nn.Module):
    """Stochastic depth as timm draws it, or numbers as nothing here can share."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "timm":
            return x * x.new_empty((len(x), *(1,) * (x.ndim - 1))).bernoulli_(0.5)
        with nullcontext() if current_slice() is None else pytest.raises(ValueError, match=r"torch\.rand.*devices: 1"):
            torch.rand(2)
        return x + torch.rand(1, generator=torch.Generator().manual_seed(0))  # a method's own draw is its own affair


BALANCED = {"shares of the batch": {"kind": "fitnet", "level": "s8"}, "the whole batch": {"kind": "mgd", "level": "s8"}}


@pytest.mark.parametrize("how", BALANCED)
def test_gradient_balancing_has_the_factors_of_one_process_and_the_same_in_both(failures, how):
    assert not failures[f"check_balance {how}"]


def check_balance(rows, how):
    method = TypeAdapter(MethodConfig).validate_python(BALANCED[how])
    students = [build_student(TypeAdapter(StudentConfig).validate_python({"kind": "unext"}), 3, 0) for _ in range(2)]
    alone, shared = (student.double().train() for student in students)
    built = [method.build({"s8": 8}, alone.channels, 3, 32).double() for _ in students]
    for one in built:
        one.prepare(make_batch(one), {})
    first, second = (Objective(one, balance=BalanceConfig()).double() for one in built)
    images = torch.randn(WHOLE, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = make_batch(built[0], WHOLE)
    batch.features = {k: f.double() for k, f in batch.features.items()}
    wanted = first.balanced(first(alone(images), batch, 0), 0, list(alone.parameters()))
    own = replace(batch, labels=batch.labels[rows], features={k: f[rows] for k, f in batch.features.items()})
    with sharing(WHOLE):
        found = second(shared(images[rows]), own, 0)
    found = second.balanced(found, 0, list(shared.parameters()))
    torch.testing.assert_close(second.balance.norms, first.balance.norms, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.total, wanted.total, rtol=1e-9, atol=0)
    both = [torch.empty_like(second.balance.norms) for _ in range(2)]
    dist.all_gather(both, second.balance.norms)
    assert torch.equal(*both)


MIXED = {  # a batch with three labelled records and two without labels; the first process has two and one of them
    "means over records": {"kind": "sward", "mwad": {"gain": 2.0}},
    "dropout, the whole batch": {"kind": "mgd", "level": "s8"},
}


@pytest.mark.parametrize("how", MIXED)
def test_records_without_labels_are_split_too_and_give_the_losses_and_gradients_of_one_process(failures, how):
    assert not failures[f"check_unlabelled {how}"]


def check_unlabelled(rows, how):
    method, others = TypeAdapter(MethodConfig).validate_python(MIXED[how]), 2
    kind = "deeplabv3" if "dropout" in how else "unext"
    students = [build_student(TypeAdapter(StudentConfig).validate_python({"kind": kind}), 3, 0) for _ in range(2)]
    alone, shared = (student.double().train() for student in students)
    built = [method.build({"s8": 8}, alone.channels, 3, alone.classifier.in_channels).double() for _ in students]
    for one in built:
        one.prepare(make_batch(one), {"s8": (torch.zeros(8), torch.ones(8))})
    first, second = (Objective(one).double() for one in built)
    batch = replace(make_batch(built[0], WHOLE + others), labelled=WHOLE)
    batch.images = torch.randn(len(batch.images), 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    batch.labels[WHOLE:] = IGNORE
    own = [*range(WHOLE)[rows], WHOLE + (rows.start > 0)]
    features = {k: f.double() for k, f in batch.features.items()}
    mine = replace(
        batch,
        images=batch.images[own],
        labels=batch.labels[own],
        features={k: f[own] for k, f in features.items()},
        ids=[batch.ids[i] for i in own],
        labelled=len(own) - 1,
    )
    torch.manual_seed(0)
    batch = replace(batch, features=features)
    wanted = first(output_for(alone, batch), batch, 0)
    wanted.total.backward()
    torch.manual_seed(0)
    with sharing(WHOLE, others):
        found = second(output_for(shared, mine), mine, 0)
    found.total.backward()
    for name in wanted.terms:
        torch.testing.assert_close(found.terms[name], wanted.terms[name], rtol=1e-6, atol=1e-9)
    for one, other in ((shared, alone), (second, first)):
        flat = gradient(other)
        assert (gradient(one, processes=2) - flat).norm() <= 1e-6 * flat.norm()


LAYERS = {
    "batch norm of vectors": nn.BatchNorm1d(4),
    "without an affine map": nn.BatchNorm2d(4, affine=False),
    "without running statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "a cumulative mean": nn.BatchNorm2d(4, momentum=None),
    "dropout": nn.Dropout(0.5),
    "dropout of channels": nn.Dropout2d(0.5),
    "stochastic depth": Draws("timm"),
    "draws that cannot be shared": Draws("otherwise"),
    "group norm": nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_sees_or_draws_for_the_batch_does_so_for_the_whole_of_it(failures, layer):
    assert not failures[f"check_layer {layer}"]


def check_layer(rows, name):
    layer = LAYERS[name].train()
    x = 5 + torch.randn(WHOLE, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    x = x[..., 0, 0] if isinstance(layer, nn.BatchNorm1d) else x
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    torch.manual_seed(3)
    wanted, state = layer(x), {k: v.clone() for k, v in layer.state_dict().items()}
    layer.load_state_dict(before)
    torch.manual_seed(3)
    with sharing(WHOLE):
        found = layer(x[rows])
    torch.testing.assert_close(found, wanted[rows], rtol=1e-5, atol=1e-6)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_slices_are_contiguous_and_cover_the_batch():
    for whole in range(2, 12):
        for world in range(1, whole + 1):
            rows = [BatchSlice(whole, rank, world).rows for rank in range(world)]
            assert [i for part in rows for i in range(part.start, part.stop)] == list(range(whole))
            assert {part.stop - part.start for part in rows} <= {whole // world, -(-whole // world)}
