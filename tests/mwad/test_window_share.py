"""A share of the windows: drawn by (seed, step, level), its expectation the terms of all windows, fused as plain."""

from itertools import combinations

import pytest
import torch
from pydantic import ValidationError

from sward.methods.sward import SwardConfig
from sward.mwad import mwad as module
from sward.mwad.attention_terms import plain_terms
from sward.mwad.config import MWADConfig
from sward.mwad.fused_attention_terms import fused_terms
from sward.mwad.mwad import MWAD
from sward.mwad.windows import Windows, draw_windows


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prepared(**settings):
    mwad = MWAD({"s8": 6}, {"s8": 4}, MWADConfig(**settings)).double()
    mwad.prepare({"s8": randn(2, 6, 7, 9, seed=0)})
    return mwad


CASES = {
    "no padding": ((8, 12), {}),
    "padding": ((7, 9), {}),
    "padding, a mean over pairs": ((7, 9), {"kl_reduction": "mean", "seam_mask": True}),
    "windows' sums": ((7, 9), {"kl_reduction": "batchmean", "context_reduction": "sum"}),
    "padding counted": ((7, 9), {"mask_padding": False, "bias": True}),
    "padded first": ((7, 9), {"roll": "after_padding"}),
}


@pytest.mark.parametrize("form", [fused_terms, plain_terms])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_over_all_draws_is_the_terms_of_all_windows_and_so_is_its_gradient(form, case):
    """By a loop over every subset of two windows, each of which is as likely."""
    (H, W), settings = CASES[case]
    stage = prepared(window=4, **settings).stages["s8"]
    f_t, f_s = randn(2, 6, H, W, seed=1), randn(2, 4, H, W, seed=2).requires_grad_()
    windows = Windows(H, W, 4, 1, 2, stage.config.roll == "after_padding")
    masks = windows.masks(stage.config.mask_padding, stage.config.seam_mask, f_s.device)
    whole = form(stage, f_t, f_s, windows, *masks)
    subsets = list(combinations(range(windows.count), 2))
    assert len(subsets) in (15, 6, 15)
    kwargs = [{"chosen": torch.tensor(subset)} for subset in subsets]
    drawn = [form(stage, f_t, f_s, windows, *masks, **k) for k in kwargs]
    for name, expected in whole.items():
        mean = sum(terms[name] for terms in drawn) / len(drawn)
        assert abs(mean - expected) <= 1e-10 * abs(expected)
        (g,), (h,) = (
            torch.autograd.grad(mean, f_s, retain_graph=True),
            torch.autograd.grad(expected, f_s, retain_graph=True),
        )
        assert (g - h).norm() <= 1e-9 * h.norm()
    assert len({round(float(terms["attn"].detach()), 12) for terms in drawn}) > 1


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
@pytest.mark.parametrize("teacher_size", [None, (11, 13)])
def test_fused_and_plain_terms_of_a_share_agree_with_their_gradients(size, teacher_size):
    mwad = prepared(window=4)
    stage, (H, W) = mwad.stages["s8"], size
    f_t, f_s = randn(2, 6, *(teacher_size or size), seed=1), randn(2, 4, H, W, seed=2).requires_grad_()
    f_s_last = f_s.contiguous(memory_format=torch.channels_last)
    windows, chosen = Windows(H, W, 4, 3, 1), torch.tensor([0, 3])
    masks = windows.masks(True, False, f_s.device)
    plain = plain_terms(stage, f_t, f_s, windows, *masks, chosen=chosen)
    for x in (f_s, f_s_last):
        fused = fused_terms(stage, f_t, x, windows, *masks, chosen=chosen)
        for name, expected in plain.items():
            torch.testing.assert_close(fused[name], expected, rtol=1e-9, atol=1e-12)
            g, h = (torch.autograd.grad(t[name], f_s, retain_graph=True)[0] for t in (fused, plain))
            torch.testing.assert_close(g, h, rtol=1e-7, atol=1e-10)


def test_a_draw_is_a_function_of_seed_step_and_level_and_every_window_is_as_likely():
    def draw(*key):
        return draw_windows(0.25, 20, *key).tolist()

    assert draw(0, 1, "s8") == draw(0, 1, "s8") == sorted(set(draw(0, 1, "s8")))
    assert len({tuple(draw(*key)) for key in ((0, 1, "s8"), (1, 1, "s8"), (0, 2, "s8"), (0, 1, "s4"))}) == 4
    counts = torch.bincount(torch.tensor([i for step in range(4000) for i in draw(0, step, "s8")]), minlength=20)
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert draw_windows(1.0, 20, 0, 0, "s8") is None
    assert draw_windows(0.01, 20, 0, 0, "s8").shape == (1,)


def test_a_module_compares_other_windows_at_every_step(monkeypatch):
    mwad, seen = prepared(window=2, window_share=0.25), []
    draw = draw_windows
    monkeypatch.setattr(module, "draw_windows", lambda *key: seen.append(draw(*key)) or seen[-1])
    f_t, f_s = {"s8": randn(2, 6, 8, 8, seed=1)}, {"s8": randn(2, 4, 8, 8, seed=2)}
    terms = [mwad(f_t, f_s, seed=0, step=step) for step in (0, 1, 0)]
    assert [len(chosen) for chosen in seen] == [4, 4, 4]
    assert terms[0] == terms[2]
    assert not torch.equal(terms[0]["attn"], terms[1]["attn"])


def test_the_whole_share_is_in_no_identity_and_a_part_is():
    assert "window_share" not in SwardConfig().model_dump()["mwad"]
    assert SwardConfig(mwad={"window_share": 0.5}).model_dump()["mwad"]["window_share"] == 0.5
    assert MWADConfig.model_validate(MWADConfig().model_dump()) == MWADConfig()


def test_a_classifier_of_all_windows_refuses_a_share():
    with pytest.raises(ValidationError, match=r"window_share is 0\.5 with teacher_proj: aux"):
        MWADConfig(window_share=0.5, teacher_proj="aux")
