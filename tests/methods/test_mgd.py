"""MGD by loops; what its mask hides, and when."""

import pytest
import torch
from rivals import STUDENT, TEACHER, assert_equals_loops, build, conv3x3, maps, projected, terms

from sward import seeds
from sward.methods.cwd import CWDConfig
from sward.methods.mgd import MGDConfig


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 2), ("mean", 2 * TEACHER * 3 * 4)])
def test_the_term_is_the_squared_error_of_what_is_rebuilt_from_the_seen_positions(reduction, divisor):
    method = build(MGDConfig(reduction=reduction, masked=0.5))
    u = seeds.uniforms(2 * 3 * 4, 5, "mgd", 7).reshape(2, 1, 3, 4)

    def loops(f_s, f_t):
        y = projected(method.align, f_s) * torch.tensor([0.0 if v > 0.5 else 1.0 for v in u.flatten()]).view(2, 1, 3, 4)
        rebuilt = conv3x3(method.generate2, conv3x3(method.generate1, y).clamp_min(0))
        return sum((a - b) ** 2 for a, b in zip(rebuilt.flatten(), f_t.flatten(), strict=True)) / divisor

    assert_equals_loops(method, "reconstruction", loops, *maps(3, 4), step=7)


def test_hidden_positions_get_no_gradient_and_all_seen_ones_do():
    method = build(MGDConfig(masked=0.5))
    f_s, f_t = maps()
    u = torch.linspace(0, 0.999, 48, dtype=torch.float64).view(2, 1, 4, 6)
    (gradient,) = torch.autograd.grad(method.reconstruction(f_s, f_t, u), f_s)
    assert torch.equal((gradient != 0).any(1, keepdim=True), u <= 0.5)


def test_the_mask_follows_seed_and_step_and_hides_the_configured_share():
    method = build(MGDConfig())
    f_s, f_t = maps()

    def term(seed, step):
        return terms(method, f_s, f_t, seed=seed, step=step)["reconstruction"]

    assert torch.equal(term(5, 0), term(5, 0))
    assert len({term(*key).item() for key in [(5, 0), (5, 1), (6, 0)]}) == 3
    assert abs((seeds.uniforms(10000, 5, "mgd", 0) > 1 - method.config.masked).mean() - 0.75) < 0.02


def test_equal_channels_need_no_aligner():
    assert build(MGDConfig(), teacher=STUDENT).align is None
    assert {n for n, _ in build(MGDConfig(), teacher=STUDENT).named_parameters()} == {
        f"generate{i}.{part}" for i in (1, 2) for part in ("weight", "bias")
    }


def test_the_sum_is_the_mean_times_the_maps_size():
    f_s, f_t = maps()
    as_sum, as_mean = (terms(build(MGDConfig(reduction=r)), f_s, f_t)["reconstruction"] for r in ("sum", "mean"))
    torch.testing.assert_close(as_sum, as_mean * f_t[0].numel())


def test_the_authors_logits_term_is_cwd_and_reads_the_teachers_head():
    method = build(MGDConfig(logits=3, logits_tau=2.0))
    cwd = build(CWDConfig(tau=2.0))
    f_s, f_t = maps()
    assert torch.equal(terms(method, f_s, f_t)["logits"], terms(cwd, f_s, f_t)["channels"])
    assert method.weights["logits"] == 3
    assert method.needs == ("s32", "logits")
    with pytest.raises(ValueError, match=r"teacher's logits.*sward fit-head"):
        MGDConfig(logits=3).build({"s32": 4}, {"s32": 3}, 3, 6)


def test_an_unstated_weight_follows_the_reduction_and_both_agree_on_the_authors_maps():
    assert build(MGDConfig()).weights["reconstruction"] == 2e-5
    assert build(MGDConfig(reduction="mean")).weights["reconstruction"] == 168
    assert round(2e-5 * 2048 * 64 * 64) == 168
    assert build(MGDConfig(reduction="mean", weight=7)).weights["reconstruction"] == 7


def test_by_default_it_is_the_papers_feature_only_form():
    assert not MGDConfig().uses_head
    assert MGDConfig(logits=3).uses_head
    assert set(terms(build(MGDConfig()), *maps())) == {"reconstruction"}
