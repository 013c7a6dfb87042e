"""CKD's terms by loops for every switch; its exchange, its groups, its statistics."""

import math

import pytest
import torch
from rivals import STUDENT, TEACHER, assert_equals_loops, build, conv3x3, labels_of, maps, randn, terms

from sward import seeds
from sward.contracts import Batch
from sward.methods.attention.ckd import CKDConfig

HEIGHT, WIDTH = 6, 5  # blocks of 4 are cut at both borders


def batch_of(f_t, seed=5):
    return Batch(f_t, labels_of(f_t), {"s32": f_t, "penultimate": f_t}, ["a/0", "b/0"], seed=seed)


def ready(**switches):
    """In float64, prepared for the maps' grid, parameters away from their initial values."""
    method = build(CKDConfig(**switches))
    f_t = maps(HEIGHT, WIDTH)[1]
    method.prepare(batch_of(f_t), {"s32": (torch.zeros(TEACHER), torch.ones(TEACHER))})
    for i, p in enumerate(method.parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=100 + i))
    return method


def tokens(f):
    """Image -> list of vectors, row by row."""
    return [[f[n, :, y, x] for y in range(f.shape[2]) for x in range(f.shape[3])] for n in range(len(f))]


def attention_loops(q, k, v):
    d = len(q[0][0])
    found = []
    for n in range(len(q)):
        for a in q[n]:
            e = [((a * b).sum() / math.sqrt(d)).exp() for b in k[n]]
            found.append(sum(w / sum(e) * c for w, c in zip(e, v[n], strict=True)))
    return torch.stack(found)


def exchanged(own, teacher, name, exchange):
    u = seeds.uniforms(2 * HEIGHT * WIDTH * TEACHER, 5, "ckd", 7, name).reshape(2, HEIGHT * WIDTH, TEACHER)
    taken = torch.from_numpy(u) >= 1 - exchange
    return [
        [torch.where(taken[n, i], teacher[n][i], own[n][i]) for i in range(HEIGHT * WIDTH)] for n in range(len(own))
    ]


@pytest.mark.parametrize("exchange", [0.5, 0.2, 0.0])
def test_attention_compares_the_outputs_after_the_exchange_of_single_elements(exchange):
    method = ready(exchange=exchange)

    def loops(f_s, f_t):
        t = tokens(f_t)
        own = {name: tokens(conv3x3(getattr(method, name), f_s)) for name in "qkv"}
        mixed = [exchanged(own[name], t, name, exchange) for name in "qkv"]
        return (attention_loops(t, t, t) - attention_loops(*mixed)).square().mean()

    assert_equals_loops(method, "attention", loops, *maps(HEIGHT, WIDTH), step=7)


def relation_loops(a, b):
    rows = [(n, i, j) for n in range(len(a)) for i in range(len(a[0])) for j in range(len(a[0]))]
    return torch.stack([(a[n][i] * b[n][j]).sum() / math.sqrt(TEACHER) for n, i, j in rows])


@pytest.mark.parametrize(("name", "left", "right"), [("scores", "q", "k"), ("values", "v", "v")])
def test_scores_and_values_compare_all_pairs_of_tokens_without_exchange(name, left, right):
    method = ready(match="scores")

    def loops(f_s, f_t):
        own = relation_loops(*(tokens(conv3x3(getattr(method, layer), f_s)) for layer in (left, right)))
        return (relation_loops(tokens(f_t), tokens(f_t)) - own).square().mean()

    assert_equals_loops(method, name, loops, *maps(HEIGHT, WIDTH), step=7)


@pytest.mark.parametrize("groups", ["block", "residue"])
def test_the_linear_term_has_a_layer_for_every_group_of_cells(groups):
    method = ready(groups=groups)
    weight, bias = method.linear.weight, method.linear.bias
    assert len(weight) == {"block": 2 * 2, "residue": 16}[groups]

    def loops(f_s, f_t):
        total = 0
        for n in range(2):
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    g = (y // 4) * math.ceil(WIDTH / 4) + x // 4 if groups == "block" else (y % 4) * 4 + x % 4
                    for c in range(TEACHER):
                        found = sum(weight[g, c, s] * f_s[n, s, y, x] for s in range(STUDENT)) + bias[g, c]
                        total = total + (found - f_t[n, c, y, x]) ** 2
        return total / f_t.numel()

    assert_equals_loops(method, "linear", loops, *maps(HEIGHT, WIDTH), step=7)


def test_a_student_whose_tokens_are_the_teachers_is_at_zero_whatever_is_exchanged():
    method = ready()
    t = torch.randn(2, 30, TEACHER, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = method.exchanged(dict.fromkeys("qkv", t), t, seed=5, step=7)
    assert all(torch.equal(x, t) for x in mixed.values())


def test_elements_that_the_teacher_supplies_pass_no_gradient():
    method = ready(exchange=0.5)
    own = {name: randn(2, 30, TEACHER, seed=i).requires_grad_() for i, name in enumerate("qkv")}
    mixed = method.exchanged(own, randn(2, 30, TEACHER, seed=9), seed=5, step=7)
    for name, x in mixed.items():
        (gradient,) = torch.autograd.grad(x.sum(), own[name])
        assert torch.equal(gradient == 1, x == own[name])
        assert 0.3 < gradient.mean() < 0.7


def test_only_draws_that_are_used_tie_a_term_to_the_place_in_the_batch():
    found = [ready(**s).order_invariant for s in ({}, {"exchange": 0.0}, {"match": "scores"})]
    assert found == [False, True, True]
    assert [ready(**s).per_sample for s in ({}, {"exchange": 0.0}, {"match": "scores"})] == found


def test_layers_that_no_term_reads_do_not_exist():
    bare = ready(match="scores", values_weight=0, linear_weight=0)
    assert {name.split(".")[0] for name in bare.state_dict()} == {"q", "k", "mean", "std"}
    assert set(terms(bare, *maps(HEIGHT, WIDTH))) == {"scores"}
    assert bare.weights == {"task": 1, "scores": 0.2}
    assert ready().weights == {"task": 1, "attention": 1, "values": 0.05, "linear": 1}


def test_the_teacher_is_standardised_by_the_stores_statistics_or_the_first_batchs():
    f_s, f_t = maps(HEIGHT, WIDTH)
    mean, std = randn(TEACHER, seed=1), randn(TEACHER, seed=2).exp()
    method, plain = ready(exchange=0), ready(exchange=0)
    method.mean.copy_(mean), method.std.copy_(std)
    raised = f_t * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    found, wanted = terms(method, f_s, raised), terms(plain, f_s, f_t)
    assert all(torch.allclose(found[k], wanted[k], rtol=1e-10) for k in wanted)
    method.prepare(batch_of(raised), {"s32": (mean, std)})
    torch.testing.assert_close(method.std, std)
    head = build(CKDConfig(level="penultimate"))
    head.prepare(batch_of(raised), {})
    torch.testing.assert_close(head.mean, raised.mean((0, 2, 3)))
    raw = build(CKDConfig(standardise=False))
    raw.prepare(batch_of(raised), {"s32": (mean, std)})
    assert raw.std.eq(1).all()


def test_layers_by_block_belong_to_one_size_of_map_and_a_saved_state_brings_them():
    method = ready()
    with pytest.raises(ValueError, match=r"has 4 layers.*a map of 4 x 4 has 1: train on records of one size.*residue"):
        terms(method, *maps(4, 4))
    fresh = build(CKDConfig())
    with pytest.raises(ValueError, match=r"has 0 layers.*\(0: not prepared\)"):
        terms(fresh, *maps(HEIGHT, WIDTH))
    fresh.load_state_dict(method.state_dict())
    a, b = (terms(m, *maps(HEIGHT, WIDTH), step=3) for m in (method, fresh))
    assert all(torch.equal(a[k], b[k]) for k in a)
    before = list(method.parameters())
    method.load_state_dict(fresh.state_dict())  # what an optimiser holds stays the same object
    assert all(p is q for p, q in zip(before, method.parameters(), strict=True))
