"""DIST by loops in every form; two classes, uniform students, and rows without a label."""

import pytest
import torch
from rivals import CLASSES, assert_equals_loops, build, labels_of, maps, terms

from sward.align import labels_on_grid
from sward.contracts import IGNORE, Batch, StudentOutput
from sward.methods.relations.dist import DISTConfig


def pearson(x, y):
    xc, yc = ([v - sum(values) / len(values) for v in values] for values in (x, y))
    lengths = sum(v**2 for v in xc).sqrt() * sum(v**2 for v in yc).sqrt()
    return sum(a * b for a, b in zip(xc, yc, strict=True)) / (lengths + 1e-8)


def probabilities(z, n, i, j, tau):
    exponentials = [(z[n, k, i, j] / tau).exp() for k in range(CLASSES)]
    return [e / sum(exponentials) for e in exponentials]


def places(z, rows):
    """By image: the positions that count."""
    B, _, H, W = z.shape
    y = labels_on_grid(labels_of(z), (H, W))
    grids = [
        [(i, j) for i in range(H) for j in range(W) if rows == "as_code" or y[n, i, j] != IGNORE] for n in range(B)
    ]
    assert (sum(map(len, grids)) < y.numel()) == (rows == "valid")
    return grids


each = pytest.mark.parametrize(("rows", "tau"), [("valid", 1.0), ("as_code", 1.0), ("valid", 4.0)])


@each
def test_inter_correlates_the_classes_of_every_pixel(rows, tau):
    method = build(DISTConfig(rows=rows, tau=tau))

    def loops(z_s, z_t):
        found = [
            pearson(probabilities(z_s, n, i, j, tau), probabilities(z_t, n, i, j, tau))
            for n, image in enumerate(places(z_t, rows))
            for i, j in image
        ]
        return tau**2 * (1 - sum(found) / len(found))

    assert_equals_loops(method, "inter", loops, *maps(3, 4))


@each
@pytest.mark.parametrize("scope", ["batch", "image"])
def test_intra_correlates_the_pixels_of_every_class(rows, tau, scope):
    method = build(DISTConfig(rows=rows, tau=tau, scope=scope))

    def loops(z_s, z_t):
        images = [[(n, i, j) for i, j in image] for n, image in enumerate(places(z_t, rows))]
        groups = images if scope == "image" else [images[0] + images[1]]
        total = 0
        for group in groups:
            P_s, P_t = ([probabilities(z, *place, tau) for place in group] for z in (z_s, z_t))
            total = total + sum(pearson([p[k] for p in P_s], [p[k] for p in P_t]) for k in range(CLASSES))
        return tau**2 * (1 - total / (CLASSES * len(groups)))

    assert_equals_loops(method, "intra", loops, *maps(3, 4))


def of_classes(count, **given):
    return DISTConfig(**given).build({"logits": count}, {"s32": 3}, count, 6).double()


def test_with_two_classes_inter_is_left_out_and_asking_for_it_is_refused():
    assert of_classes(2).weights == {"task": 1.0, "intra": 1.0}
    assert of_classes(2, beta=0).weights == {"task": 1.0, "intra": 1.0}
    assert of_classes(3).weights == {"task": 1.0, "inter": 1.0, "intra": 1.0}
    with pytest.raises(ValueError, match=r"found beta 1.0 with 2 classes.*expected beta: 0"):
        of_classes(2, beta=1.0)
    with pytest.raises(ValueError, match=r"only `intra` has a gradient, and gamma is 0"):
        of_classes(2, gamma=0)
    with pytest.raises(ValueError, match=r"nothing would be distilled"):
        DISTConfig(beta=0, gamma=0)


def test_with_two_classes_every_row_correlates_by_one_or_minus_one():
    P_s, P_t = (torch.softmax(z[:, :2], 1).flatten(2).mT for z in maps(3, 4))
    r = [pearson(list(a), list(b)) for a, b in zip(P_s.flatten(0, 1), P_t.flatten(0, 1), strict=True)]
    assert all(abs(abs(value) - 1) < 1e-3 for value in r)


@pytest.mark.parametrize("guard", [1e-6, 0.0])
def test_a_uniform_student_has_a_loss_of_one_and_no_exploding_gradient_unless_unguarded(guard):
    method = build(DISTConfig(rows="as_code", guard=guard))
    z_s, z_t = torch.zeros(2, 3, 3, 4, dtype=torch.float64, requires_grad=True), maps(3, 4)[1]
    found = terms(method, z_s, z_t)
    for term in found.values():
        assert abs(term - 1) < 1e-8
        (gradient,) = torch.autograd.grad(term, z_s, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient.abs().max() > 1e3) == (guard == 0)


def test_the_guard_changes_nothing_where_probabilities_vary():
    f_s, f_t = maps(3, 4)
    a, b = (terms(build(DISTConfig(guard=guard)), f_s, f_t) for guard in (1e-6, 0.0))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    for k in a:
        assert torch.equal(*(torch.autograd.grad(t[k], f_s, retain_graph=True)[0] for t in (a, b)))


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_images_without_a_label_do_not_count_and_a_batch_without_any_is_zero(scope):
    method = build(DISTConfig(scope=scope))
    z_s, z_t = maps(3, 4)
    labels = torch.zeros(2, 3, 4, dtype=torch.int64)
    labels[0] = IGNORE

    def found(labels, rows):
        batch = Batch(z_t, labels[rows], {"logits": z_t[rows, :CLASSES]}, ["a/0", "b/0"][rows])
        return method(StudentOutput(z_s[rows], {}, z_s[rows]), batch, 0)

    both, alone = found(labels, slice(0, 2)), found(labels, slice(1, 2))
    assert all(torch.allclose(both[k], alone[k], rtol=1e-12) for k in both)
    assert all(term == 0 for term in found(torch.full_like(labels, IGNORE), slice(0, 2)).values())


def test_a_teacher_of_other_scale_and_offset_is_met():
    z_s, _ = maps(3, 4)
    z_t = (0.5 * z_s.detach().softmax(1) + 0.5 / CLASSES).log()  # half the contrast, the same correlations
    found = terms(build(DISTConfig(rows="as_code")), z_s, torch.cat([z_t, z_t[:, :1]], 1))
    assert all(term.abs() < 1e-6 for term in found.values())


def test_it_reads_the_teachers_logits():
    assert DISTConfig().uses_head
    assert build(DISTConfig()).needs == ("logits",)
    with pytest.raises(ValueError, match=r"teacher's logits.*sward fit-head"):
        DISTConfig().build({"s32": 4}, {"s32": 3}, 3, 6)


def test_only_means_over_samples_are_shared_by_processes():
    assert build(DISTConfig(scope="image", rows="as_code")).per_sample
    assert not build(DISTConfig(scope="image")).per_sample
    assert not build(DISTConfig(rows="as_code")).per_sample
