"""CIRKD's terms by loops; what its versions and weights leave out; when the batch is filed, and resuming."""

import math

import pytest
import torch
from rivals import (
    CLASSES,
    STUDENT,
    TEACHER,
    assert_equals_loops,
    batch_norm,
    build,
    kd_loops,
    labels_of,
    maps,
    projected,
    randn,
)
from rivals import terms as terms_of

from sward.align import labels_on_grid
from sward.contracts import IGNORE, Batch
from sward.methods.cirkd import relations
from sward.methods.cirkd.cirkd import CIRKDConfig
from sward.methods.cirkd.relations import pool
from sward.methods.cirkd.target import Target

SMALL = {
    "pixel": 20,
    "region": 6,
    "channel": 12,
    "pixels_per_class": 3,
    "channels_per_step": 5,
    "pixel_samples": 7,
    "region_samples": 4,
    "channel_samples": 6,
}
V2 = {"version": "v2"}
HEIGHT, WIDTH = 4, 6


def ready(**switches):
    """In float64, queues drawn from seed 5, parameters away from their initial values."""
    method = build(CIRKDConfig(**{"queues": SMALL, "level": "s32"} | switches))
    f_t = maps(HEIGHT, WIDTH)[1]
    method.prepare(Batch(f_t, labels_of(f_t), {"s32": f_t, "penultimate": f_t}, ["a/0", "b/0"], seed=5), {})
    for i, p in enumerate(method.parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=100 + i))
    return method


def unit(values):
    return [v / sum(w * w for w in values).sqrt() for v in values]


def kl_of_row(x_s, columns_s, x_t, columns_t, tau):
    """Of one row: vectors as lists, unit length."""
    e_s, e_t = (
        [(sum(a * b for a, b in zip(x, c, strict=True)) / tau).exp() for c in columns]
        for x, columns in ((x_s, columns_s), (x_t, columns_t))
    )
    pairs = zip(e_s, e_t, strict=True)
    return sum(t / sum(e_t) * ((t / sum(e_t)).log() - (s / sum(e_s)).log()) for s, t in pairs)


def pixels_of(f):
    return [[unit(f[n, :, y, x]) for y in range(f.shape[2]) for x in range(f.shape[3])] for n in range(len(f))]


def channels_of(f):
    return [[unit(f[n, c].flatten()) for c in range(f.shape[1])] for n in range(len(f))]


def pooled(f, side):
    N, C, H, W = f.shape
    cells = [(y, x) for y in range(0, H, side) for x in range(0, W, side)]
    values = [f[n, c, y : y + side, x : x + side].mean() for n in range(N) for c in range(C) for y, x in cells]
    return torch.stack(values).view(N, C, math.ceil(H / side), math.ceil(W / side))


def pair_loops(v_s, v_t, tau=0.1):
    """Mean over ordered pairs of images and over rows; v: image -> row -> vector."""
    B, n = len(v_t), len(v_t[0])
    rows = [(a, b, i) for a in range(B) for b in range(B) for i in range(n)]
    return sum(kl_of_row(v_s[a][i], v_s[b], v_t[a][i], v_t[b], tau) for a, b, i in rows) / (B * B * n)


def project_loops(project, f):
    return projected(project.second, batch_norm(project.norm, projected(project.first, f)).clamp_min(0))


@pytest.mark.parametrize(("pool", "side"), [("auto", 1), (2, 2), (4, 4)])
def test_pairs_relate_every_pixel_to_those_of_every_image(pool, side):
    method = ready(pool=pool)
    assert_equals_loops(
        method,
        "pairs",
        lambda f_s, f_t: pair_loops(pixels_of(pooled(f_s, side)), pixels_of(pooled(f_t, side))),
        *maps(HEIGHT, WIDTH),
    )


@pytest.mark.parametrize(("name", "kd_tau"), [("pixel", 1.0), ("region", 2.0)])
def test_memory_terms_relate_labelled_pixels_to_the_same_places_of_every_classes_queue(name, kd_tau):
    method = ready(kd_tau=kd_tau)

    def loops(f_s, f_t):
        y = labels_on_grid(labels_of(f_t), (HEIGHT, WIDTH))
        drawn = getattr(method.draw(Target(f_t, y), 5, 7), name).tolist()
        assert len(drawn) == {"pixel": 7 // CLASSES + 1, "region": 4 // CLASSES + 1}[name]
        queue = getattr(method.queues, name)
        memory = [list(queue[k, at]) for k in range(CLASSES) for at in drawn]
        v_s, v_t = pixels_of(project_loops(method.project, f_s)), pixels_of(f_t)
        counted = [(n, i) for n in range(2) for i in range(HEIGHT * WIDTH) if y[n].flatten()[i] != IGNORE]
        total = sum(kl_of_row(v_s[n][i], memory, v_t[n][i], memory, 0.1 * kd_tau) for n, i in counted)
        return kd_tau**2 * total / len(counted)

    assert_equals_loops(method, name, loops, *maps(HEIGHT, WIDTH), step=7)


def test_kd_is_kd_on_logits():
    method = ready(level="penultimate", kd_tau=2.0)
    assert_equals_loops(method, "kd", lambda z_s, z_t: kd_loops(z_s, z_t, 2.0), *maps(HEIGHT, WIDTH))


def test_the_hint_follows_a_block_of_self_attention():
    method = ready(**V2)
    gcn = method.gcn
    assert all(layer.bias is None for layer in (gcn.query, gcn.key, gcn.value, gcn.out, gcn.join))

    def loops(f_s, f_t):
        q, k, v = (projected(layer, f_s).flatten(2) for layer in (gcn.query, gcn.key, gcn.value))
        found = []
        for n in range(2):
            for i in range(HEIGHT * WIDTH):
                e = [((q[n, :, i] * k[n, :, j]).sum() / math.sqrt(STUDENT // 2)).exp() for j in range(HEIGHT * WIDTH)]
                found.append(sum(w / sum(e) * v[n, :, j] for j, w in enumerate(e)))
        attended = torch.stack(found).view(2, HEIGHT, WIDTH, -1).permute(0, 3, 1, 2)
        a = batch_norm(gcn.norm_out, projected(gcn.out, attended)).clamp_min(0)
        joined = batch_norm(gcn.norm_join, projected(gcn.join, torch.cat([f_s, a], 1))).clamp_min(0)
        y = projected(method.hint, joined)
        return sum((a - b) ** 2 for a, b in zip(y.flatten(), f_t.flatten(), strict=True)) / f_t.numel()

    assert_equals_loops(method, "hint", loops, *maps(HEIGHT, WIDTH))


def test_channel_terms_compare_the_projected_students_channels_on_means():
    method = ready(**V2)

    def both(f_s, f_t):
        return channels_of(project_loops(method.project_channels, pooled(f_s, 4))), channels_of(pooled(f_t, 4))

    def memory(f_s, f_t):
        y = labels_on_grid(labels_of(f_t), (HEIGHT, WIDTH))
        columns = [list(method.channel_queue.ring[at]) for at in method.draw(Target(f_t, y), 5, 7).channel]
        assert len(columns) == 6
        v_s, v_t = both(f_s, f_t)
        rows = [(n, c) for n in range(2) for c in range(TEACHER)]
        return sum(kl_of_row(v_s[n][c], columns, v_t[n][c], columns, 0.1) for n, c in rows) / len(rows)

    def square(f_s, f_t):
        values = [torch.stack([torch.stack(row) for image in v for row in image]) for v in both(f_s, f_t)]
        return (values[0] - values[1]).square().mean()

    for name, loops in [
        ("channel_pairs", lambda f_s, f_t: pair_loops(*both(f_s, f_t))),
        ("channel_memory", memory),
        ("channel_mse", square),
    ]:
        assert_equals_loops(method, name, loops, *maps(HEIGHT, WIDTH), step=7)


def test_pooling_follows_the_version_and_keeps_what_the_border_cuts():
    assert ready()._side(torch.zeros(1, 1, 512, 512)) == 1
    assert ready(**V2)._side(torch.zeros(1, 1, 256, 256)) == 4
    assert ready(**V2)._side(torch.zeros(1, 1, 256, 128)) == 1
    assert pool(torch.ones(1, 1, 5, 3), 4).tolist() == [[[[1.0], [1.0]]]]


def test_each_version_has_its_terms_and_every_parameter_learns():
    for switches, names in [
        ({}, {"pairs", "pixel", "region"}),
        (V2, {"pairs", "pixel", "region", "hint", "channel_pairs", "channel_memory", "channel_mse"}),
        ({"level": "penultimate"}, {"kd", "pairs", "pixel", "region"}),
    ]:
        method = ready(**switches)
        found = terms_of(method, *maps(HEIGHT, WIDTH))
        assert set(found) == names == set(method.weights) - {"task"}
        sum(method.weights[name] * term for name, term in found.items()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_a_term_of_weight_zero_takes_its_parts_with_it():
    off = {"pixel": 0, "region": 0, "channel_pairs": 0, "channel_memory": 0, "channel_mse": 0, "hint": 0}
    method = ready(**V2, weights=off)
    assert set(terms_of(method, *maps(HEIGHT, WIDTH))) == {"pairs"}
    assert not list(method.parameters())
    assert set(method.state_dict()) == {"filed"}
    some = ready(**V2, weights=off | {"region": 1, "channel_mse": 1})
    assert set(terms_of(some, *maps(HEIGHT, WIDTH))) == {"pairs", "region", "channel_mse"}


def test_a_head_is_needed_for_its_own_tensors_only():
    bare, student = {"s16": 7, "s32": 4}, {"s16": 5, "s32": 3}
    assert CIRKDConfig().uses_head
    assert build(CIRKDConfig()).needs == ("penultimate", "logits")
    assert not CIRKDConfig(level="s16").uses_head
    assert CIRKDConfig(level="s16").build(bare, student, CLASSES, 6).needs == ("s16",)
    with pytest.raises(ValueError, match=r"teacher's penultimate.*sward fit-head"):
        CIRKDConfig().build(bare, student, CLASSES, 6)


def test_a_student_that_equals_the_teacher_has_no_relation_left_to_learn():
    _, f = maps(HEIGHT, WIDTH)
    only_pairs = {"pixel": 0, "region": 0}  # without a memory there is nothing to prepare
    method = build(CIRKDConfig(weights=only_pairs, level="s32"), student=TEACHER)
    assert terms_of(method, f.clone().requires_grad_(), f)["pairs"].abs() < 1e-14


def state(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_step_is_filed_once_however_often_it_is_computed(version):
    method = ready(version=version)
    names = [name for name, _ in method.named_buffers()]
    f_s, f_t = maps(HEIGHT, WIDTH)
    first = terms_of(method, f_s, f_t, step=3)
    filed = state(method)
    assert filed["filed"] == 3
    again = terms_of(method, f_s, f_t, step=3)
    terms_of(method, f_s, f_t, step=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(filed[name], method.state_dict()[name]) for name in names)
    terms_of(method, f_s, f_t, step=4)
    assert not any(torch.equal(filed[name], method.state_dict()[name]) for name in names)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_resumed_run_finds_its_queues(version):
    method, resumed = ready(version=version), build(CIRKDConfig(queues=SMALL, level="s32", version=version))
    for step in range(3):
        terms_of(method, *maps(HEIGHT, WIDTH), step=step)
    resumed.load_state_dict(method.state_dict())
    for step in range(3, 6):
        a, b = (terms_of(m, *maps(HEIGHT, WIDTH), step=step) for m in (method, resumed))
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_empty_queues_are_not_compared_with(version):
    method = build(CIRKDConfig(queues=SMALL, level="s32", version=version))
    with pytest.raises(RuntimeError, match=r"call prepare\(batch, statistics\).*or load a state that was prepared"):
        terms_of(method, *maps(HEIGHT, WIDTH))
    method.load_state_dict(build(CIRKDConfig(queues=SMALL, level="s32", version=version)).state_dict())
    with pytest.raises(RuntimeError, match="CIRKD's queues are empty"):
        terms_of(method, *maps(HEIGHT, WIDTH))


def test_steps_up_to_a_loaded_states_last_are_not_filed_unless_it_says_otherwise():
    method, other = ready(), ready()
    terms_of(method, *maps(HEIGHT, WIDTH), step=9)
    other.load_state_dict(method.state_dict())
    terms_of(other, *maps(HEIGHT, WIDTH), step=9)
    assert torch.equal(other.queues.pixel, method.queues.pixel)
    other.load_state_dict(method.state_dict() | {"filed": torch.tensor(-1)})
    terms_of(other, *maps(HEIGHT, WIDTH), step=0)
    assert not torch.equal(other.queues.pixel, method.queues.pixel)


def test_a_configuration_without_any_term_is_refused():
    none = {"pairs": 0, "pixel": 0, "region": 0}
    with pytest.raises(ValueError, match=r"every term of v1 at level s32 has weight 0.*kind: plain"):
        CIRKDConfig(level="s32", weights=none)
    assert CIRKDConfig(weights=none).terms == {"kd": 1.0}
    assert "hint" in CIRKDConfig(level="s32", version="v2", weights=none).terms


def test_the_ready_made_gradient_is_the_right_one_in_blocks_of_rows_too(monkeypatch):
    monkeypatch.setattr(relations, "ROWS", 2)
    x, m = randn(5, 3, seed=1).requires_grad_(), randn(4, 3, seed=2).requires_grad_()
    x_t, m_t, weight = randn(5, 2, seed=3), randn(4, 2, seed=4), randn(5, seed=5).abs()
    assert torch.autograd.gradcheck(lambda x, m: relations.rows_kl(x, m, x_t, m_t, 0.5, weight), (x, m))
    same = relations.rows_kl(x, x, x_t, x_t, 0.5, weight)
    monkeypatch.setattr(relations, "ROWS", 100)
    torch.testing.assert_close(same, relations.rows_kl(x, x, x_t, x_t, 0.5, weight))


def test_gradients_can_be_taken_again_from_one_graph():
    f_s, f_t = maps(HEIGHT, WIDTH)
    total = sum(terms_of(ready(**V2), f_s, f_t).values())
    (a,) = torch.autograd.grad(total, f_s, retain_graph=True)
    (b,) = torch.autograd.grad(total, f_s)
    assert torch.equal(a, b)


def test_the_channel_queue_names_what_to_do_about_maps_of_another_size():
    method = ready(**V2)
    with pytest.raises(ValueError, match=r"holds maps of 2 positions.*has 1: .*channel_memory: 0"):
        terms_of(method, *maps(4, 4))


def test_queues_too_small_for_a_step_are_refused_together():
    with pytest.raises(ValueError, match=r"pixels_per_class 16 does not fit.*channels_per_step 256 does not fit"):
        CIRKDConfig(queues={"pixel": 8, "channel": 100})
