"""OFA-KD by loops at every level and for every switch; where its branches sit and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from rivals import CLASSES, batch_norm, build, labels_of, projected, randn

from sward.align import labels_on_grid
from sward.contracts import IGNORE, Batch, StudentOutput
from sward.methods.logits.ofa import OFAConfig

SIZES = {"s16": (4, 6), "s32": (2, 3)}
LOGITS = (8, 12)


def student():
    """Maps of two levels and the final logits of two samples, all with gradient."""
    found = {"s16": randn(2, 5, *SIZES["s16"], seed=1), "s32": randn(2, 3, *SIZES["s32"], seed=2)}
    return {k: f.requires_grad_() for k, f in (found | {"logits": randn(2, CLASSES, 4, 6, seed=3)}).items()}


def teacher():
    return randn(2, CLASSES, *LOGITS, seed=4)


def terms(method, maps, z_t):
    levels = {k: f for k, f in maps.items() if k != "logits"}
    batch = Batch(z_t.new_zeros(2, 3, 8, 8), labels_of(z_t), {"logits": z_t}, ["a/0", "b/0"], seed=5)
    return method(StudentOutput(maps["logits"], levels, maps["s32"]), batch, 0)


def softmax_loops(z):
    e = [v.exp() for v in z]
    return [v / sum(e) for v in e]


def term_loops(z, p, labels, gamma, form, tau):
    """z: a branch's logits; p: the teacher's probabilities on the same grid."""
    y = labels_on_grid(labels, z.shape[-2:])
    rows = (y != IGNORE).nonzero().tolist()
    total = 0
    for n, i, j in rows:
        q, c = softmax_loops([v / tau for v in z[n, :, i, j]]), int(y[n, i, j])
        for k in range(CLASSES):
            t = p[n, k, i, j]
            if form == "as_code":
                weight = (1 + t) ** gamma - 1 if k == c else t**gamma
            else:
                weight = (1 + t) ** gamma if k == c else t
            total = total - weight * q[k].log()
    return total / len(rows)


def sep_loops(branch, f):
    """Depthwise 3x3, 1x1, batch statistics, ReLU, 1x1."""
    H, W = f.shape[-2:]
    depth = torch.zeros_like(f)
    for y in range(H):
        for x in range(W):
            near = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if 0 <= y + a < H and 0 <= x + b < W]
            value = sum(branch.depth.weight[:, 0, a + 1, b + 1] * f[:, :, y + a, x + b] for a, b in near)
            depth = depth + value[:, :, None, None] * F.one_hot(torch.tensor(y * W + x), H * W).view(H, W)
    return projected(branch.out, batch_norm(branch.norm, projected(branch.point, depth)).clamp_min(0))


def area_loops(p, size):
    h, w = p.shape[-2] // size[0], p.shape[-1] // size[1]
    cells = [
        p[..., h * y : h * y + h, w * x : w * x + w].mean((-2, -1)) for y in range(size[0]) for x in range(size[1])
    ]
    return torch.stack(cells, -1).unflatten(-1, size)


SWITCHES = [
    {},
    {"gamma": 1.3},
    {"gamma": 1.3, "form": "as_paper"},
    {"form": "as_paper", "tau": 2.0},
    {"gamma": 1.2, "final_gamma": 1.5, "branch": "sep"},
    {"resample": "area", "tau": 2.0, "gamma": 1.4},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_branch_and_the_final_logits_are_compared_with_the_boosted_teacher(switches):
    method, maps, z_t = build(OFAConfig(**switches)), student(), teacher()
    config, labels = method.config, labels_of(z_t)
    wanted = {}
    for level, branch in method.branches.items():
        z = sep_loops(branch, maps[level]) if config.branch == "sep" else projected(branch.out, maps[level])
        if config.resample == "area":
            p = area_loops((z_t / config.tau).softmax(1), SIZES[level])
        else:
            p = (F.interpolate(z_t, SIZES[level], mode="bilinear", align_corners=False) / config.tau).softmax(1)
        term = term_loops(z, p, labels, config.gamma, config.form, config.tau)
        wanted["branches"] = wanted.get("branches", 0) + term
    z = F.interpolate(maps["logits"], LOGITS, mode="bilinear", align_corners=False)
    gamma = config.final_gamma or config.gamma
    wanted["final"] = term_loops(z, (z_t / config.tau).softmax(1), labels, gamma, config.form, config.tau)
    found = terms(method, maps, z_t)
    for name, reached in (("branches", ("s16", "s32")), ("final", ("logits",))):
        assert (found[name] - wanted[name]).abs() <= 1e-10 * wanted[name].abs()
        for key in reached:
            (g,), (h,) = (torch.autograd.grad(v[name], maps[key], retain_graph=True) for v in (found, wanted))
            assert (g - h).norm() <= 1e-8 * h.norm()


def test_with_exponent_one_it_is_the_cross_entropy_with_the_teachers_probabilities():
    maps, z_t = student(), teacher()
    found = terms(build(OFAConfig(levels=("s32",))), maps, z_t)["final"]
    z, y = F.interpolate(maps["logits"], LOGITS, mode="bilinear"), labels_on_grid(labels_of(z_t), LOGITS)
    soft = -(z_t.softmax(1) * z.log_softmax(1)).sum(1)
    torch.testing.assert_close(found, soft[y != IGNORE].mean())


def test_the_papers_form_is_the_codes_plus_the_cross_entropy_at_exponent_one():
    maps, z_t = student(), teacher()
    code, paper = (
        terms(build(OFAConfig(form=form, levels=("s32",))), maps, z_t)["final"] for form in ("as_code", "as_paper")
    )
    z, y = F.interpolate(maps["logits"], LOGITS, mode="bilinear"), labels_on_grid(labels_of(z_t), LOGITS)
    torch.testing.assert_close(paper, code + F.cross_entropy(z, y, ignore_index=IGNORE))


def test_the_four_deepest_levels_have_branches_unless_others_are_named():
    levels = {"s2": 2, "s4": 3, "s8": 4, "s16": 5, "s32": 6}
    method = OFAConfig().build({"logits": 3}, levels, 3, 4)
    assert list(method.branches) == ["s4", "s8", "s16", "s32"]
    assert list(OFAConfig(levels=("s2",)).build({"logits": 3}, levels, 3, 4).branches) == ["s2"]
    with pytest.raises(ValueError, match=r"levels: s64, s8 unknown or repeated; choose from \['s2', 's4'"):
        OFAConfig(levels=("s64", "s8", "s8")).build({"logits": 3}, levels, 3, 4)


def test_a_branch_with_batch_norm_refuses_one_value_per_channel():
    method = build(OFAConfig(branch="sep", levels=("s32",)))
    f, z_t = randn(1, 3, 1, 1, seed=1), randn(1, CLASSES, 4, 4, seed=2)
    batch = Batch(f, labels_of(z_t), {"logits": z_t}, ["a/0"], seed=5)
    with pytest.raises(
        ValueError, match=r"one value per channel.*use a finer level, larger records, or a larger batch"
    ):
        method(StudentOutput(z_t, {"s32": f}, f), batch, 0)


def test_the_final_term_can_be_left_out():
    method = build(OFAConfig(final_weight=0, weight=0.3))
    assert set(terms(method, student(), teacher())) == {"branches"}
    assert method.weights == {"task": 1, "branches": 0.3}
