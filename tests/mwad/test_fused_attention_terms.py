"""The passes written for speed equal the plain forms, in value and gradient, whatever the switches."""

import statistics
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sward import MWAD, PDR, MWADConfig, PDRConfig
from sward.contracts import IGNORE, Batch
from sward.cpu_products import fast_bfloat16, precision_of_products, products_in
from sward.methods.sward import SwardConfig
from sward.mwad.attention_terms import plain_terms
from sward.mwad.fused_attention_terms import RelationSums, fused_terms, phi_map
from sward.mwad.project import Maps, project
from sward.mwad.tokens import MOST_TABLES, TABLES, GatherTokens, rows_of
from sward.mwad.windows import Windows
from sward.objective import Objective
from sward.pdr.pdr import fused_geometry, plain_geometry
from sward.students import build_student
from sward.students.unext import UNeXtConfig


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"terms": "attn"},
    {"terms": "attn+value"},
    {"bias": True, "standardise": False},
    {"bias": True, "mask_padding": False},
    {"seam_mask": True},
    {"seam_mask": True, "mask_padding": False, "roll": "after_padding"},
    {"roll": "after_padding", "bias": True},
    {"kl_reduction": "batchmean", "context_reduction": "sum"},
    {"kl_reduction": "mean", "seam_mask": True},
    {"max_width": 5},
    {"max_width": 5, "bias": True},
]
GRIDS = {"divisible": ((16, 8), (16, 8)), "padded": ((13, 11), (13, 11)), "resized": ((9, 14), (13, 11))}


def both_forms(switches: dict[str, Any], grids: str, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Terms, and the gradients of their weighted sum, of the plain and the fused form."""
    mwad = MWAD({"s8": 12}, {"s8": 8}, MWADConfig(window=4, **switches)).to(dtype)
    (h, w), (H, W) = GRIDS[grids]
    f_t = 3 + 2 * randn(3, 12, h, w, dtype=dtype)
    mwad.prepare({"s8": f_t})
    stage, found = mwad.stages["s8"], []
    windows = Windows(min(h, H), min(w, W), 4, 3, 1, mwad.config.roll == "after_padding")
    masks = windows.masks(mwad.config.mask_padding, mwad.config.seam_mask, torch.device("cpu"))
    for form in (plain_terms, fused_terms):
        f_s = randn(3, 8, H, W, seed=1, dtype=dtype).requires_grad_()
        terms = form(stage, f_t, f_s, windows, *masks)
        learned = dict(stage.theta_s.named_parameters())
        total = torch.stack([(i + 1) * term for i, term in enumerate(terms.values())]).sum()
        grads = torch.autograd.grad(total, [f_s, *learned.values()])
        found.append(terms | dict(zip(["features", *learned], grads, strict=True)))
    return found


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_fused_mwad_equals_the_plain_form_with_its_gradients(
    switches: dict[str, Any], grids: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sward.mwad.fused_attention_terms.GROUP", 16**2 * 5)  # groups that end within an image
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        plain, fused = both_forms(switches, grids, dtype)
        assert plain.keys() == fused.keys()
        for name, expected in plain.items():
            torch.testing.assert_close(fused[name], expected, rtol=tolerance, atol=tolerance, msg=name)


def test_phi_is_the_same_map_with_the_standardisation_in_its_weights() -> None:
    mwad = MWAD({"s8": 12}, {"s8": 8}, MWADConfig(bias=True)).double()
    f = 3 + 2 * randn(2, 12, 5, 6)
    mwad.prepare({"s8": f})
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(
            phi_map(mwad.stages["s8"], f.to(memory_format=layout)), mwad.stages["s8"].teacher(f), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_the_relations_is_that_of_finite_differences(masked: bool, wanted: tuple[bool, bool]) -> None:
    widths = (3, 3, 2, 3, 3, 2)  # of Q, K and V of the student, then of the teacher
    made = [randn(4, 4, n, seed=i) for i, n in enumerate(widths)]  # two images of two windows
    visible = valid = None
    if masked:
        valid = torch.tensor([[True] * 4, [True, True, False, False]])
        visible = valid[:, None, :].expand(-1, 4, -1)
    call = lambda *student: RelationSums.apply(*student, *made[3:], visible, valid, 1e-8, *wanted)  # noqa: E731
    assert torch.autograd.gradcheck(call, tuple(x.requires_grad_() for x in made[:3]))


def test_values_of_length_zero_have_the_gradient_of_the_plain_form() -> None:
    V_t = randn(1, 4, 2, seed=5)
    grads = []
    for fused in (True, False):
        V_s = torch.zeros(1, 4, 2, dtype=torch.float64).requires_grad_()
        if fused:
            Q, K = randn(1, 4, 3, seed=6), randn(1, 4, 3, seed=7)
            loss = RelationSums.apply(Q, K, V_s, Q, K, V_t, None, None, 1e-3, True, False)[1]
        else:
            loss = (1 - torch.cosine_similarity(V_s, V_t, dim=-1, eps=1e-3)).sum()
        grads += torch.autograd.grad(loss, V_s)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    "windows", [Windows(13, 21, 8, 3, 1), Windows(13, 21, 8, 3, 1, True), Windows(16, 24, 8, 0, 5)]
)
def test_reordering_pixels_cuts_the_windows_and_its_gradient_puts_them_back(windows: Windows) -> None:
    f = randn(2, 3, windows.height, windows.width).requires_grad_()
    tokens, weight = windows.split(f), randn(*windows.split(f).shape, seed=3)
    cut = GatherTokens.apply(f.flatten(2).mT, *windows.rows(f.device), any(windows.padding), False).view(tokens.shape)
    assert torch.equal(cut, tokens)
    assert torch.equal(*(torch.autograd.grad((x * weight).sum(), f)[0] for x in (cut, tokens)))


def test_narrow_projections_have_keys_of_their_own_and_wide_ones_the_tokens() -> None:
    tokens = randn(2, 4, 6)
    for width, own in ((6, False), (5, True)):
        theta = torch.nn.Conv2d(6, 3 * width, 1).double()
        Q, K, V = (theta(tokens.mT[..., None])[..., 0].mT).chunk(3, dim=-1)
        queries, keys, values = project(theta, tokens)
        torch.testing.assert_close(values, V)
        torch.testing.assert_close((queries @ keys.mT).softmax(-1), (Q @ K.mT / width**0.5).softmax(-1))
        assert (keys.data_ptr() != tokens.data_ptr()) == own


@pytest.mark.parametrize("narrow", [False, True])
def test_the_gradients_of_the_three_maps_are_those_of_finite_differences(narrow: bool) -> None:
    x, Q, K, V = randn(2, 3, 4), randn(2, 4, seed=1), randn(2, 4, seed=2), randn(3, 4, seed=3)
    made = [x, Q if narrow else randn(4, 4, seed=1), K if narrow else None, V, None, None, randn(3, seed=4)]
    assert torch.autograd.gradcheck(Maps.apply, tuple(t if t is None else t.requires_grad_() for t in made))


def test_the_rows_of_windows_are_made_once_and_those_of_a_trace_are_not_kept() -> None:
    windows = Windows(13, 21, 8, 3, 1)
    TABLES.clear()
    with FakeTensorMode():
        rows_of(windows, torch.device("cpu"))
    with torch.inference_mode():
        rows_of(windows, torch.device("cpu"))
    assert not TABLES
    first = rows_of(windows, torch.device("cpu"))
    assert rows_of(windows, torch.device("cpu")) is first
    assert all(torch.equal(a, b) for a, b in zip(first, windows.rows(torch.device("cpu")), strict=True))
    for side in range(1, MOST_TABLES + 20):
        rows_of(Windows(2, 2, side), torch.device("cpu"))
    assert len(TABLES) <= MOST_TABLES


# ---- products in bfloat16 ----------------------------------------------------------------------------------


@pytest.mark.skipif(not fast_bfloat16(), reason="this processor has no fast bfloat16")
def test_bfloat16_factors_change_a_term_by_less_than_a_thousandth_and_leave_torchs_setting() -> None:
    f_t = {"s8": 3 + 2 * randn(4, 96, 32, 32, dtype=torch.float32)}
    f_s = {"s8": randn(4, 64, 32, 32, seed=1, dtype=torch.float32).requires_grad_()}
    before, found = torch.backends.mkldnn.matmul.fp32_precision, []
    for products in ("float32", "bfloat16"):
        mwad = MWAD({"s8": 96}, {"s8": 64}, MWADConfig(products=products))
        mwad.prepare(f_t)
        terms = mwad(f_t, f_s, seed=0, step=0)
        (grad,) = torch.autograd.grad(sum(terms.values()), f_s["s8"])
        found.append(({name: term.item() for name, term in terms.items()}, grad))
    (exact, grad), (rounded, rounded_grad) = found
    errors = {name: abs(rounded[name] / exact[name] - 1) for name in exact}
    assert 0 < max(errors.values()) < 1e-3
    assert 1e-4 < (rounded_grad - grad).norm() / grad.norm() < 2e-2  # also the backward pass has such factors
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_products_stay_in_float32_where_bfloat16_is_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in ("fast_bfloat16", "onednn_is_faster"):
        monkeypatch.setattr(f"sward.cpu_products.{found}", lambda: False)
    with products_in("bfloat16", torch.device("cpu")):
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert precision_of_products() == "float32"


# ---- PDR --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_class_sums_of_unit_vectors_give_the_two_pass_geometry(
    dtype: torch.dtype, tolerance: float, layout: torch.memory_format
) -> None:
    f = (0.5 + randn(3, 16, 32, 24, dtype=dtype)).relu().to(memory_format=layout).requires_grad_()
    y = torch.randint(-1, 4, (3, 32, 24), generator=torch.Generator().manual_seed(0))
    y[y < 0] = IGNORE
    plain, fused = (form(f, y, 5, 1.3, 1e-12) for form in (plain_geometry, fused_geometry))
    for name in plain:
        torch.testing.assert_close(fused[name], plain[name], rtol=tolerance, atol=tolerance)
        grads = [torch.autograd.grad(form[name], f, retain_graph=True)[0] for form in (fused, plain)]
        torch.testing.assert_close(*grads, rtol=tolerance, atol=tolerance * float(grads[1].abs().max()))


def test_tight_classes_keep_an_error_of_rounding_and_a_gradient_without_it() -> None:
    f = (1 + 1e-3 * randn(2, 16, 64, 64, dtype=torch.float32)).requires_grad_()
    y = torch.zeros(2, 64, 64, dtype=torch.long)
    found = PDR(PDRConfig(), 1)(f, y)["compactness"]
    exact = f.detach().double().requires_grad_()
    expected = PDR(PDRConfig(), 1)(exact, y)["compactness"]
    assert found.item() == pytest.approx(expected.item(), abs=2e-6)
    (grad,), (grad64,) = torch.autograd.grad(found, f), torch.autograd.grad(expected, exact)
    assert (grad - grad64).norm() < 1e-3 * grad64.norm()


# ---- mixed precision --------------------------------------------------------------------------------------


def last_loss(seed: int, bf16: bool) -> float:
    """Mean total of the last 20 of 200 steps of UNeXt with both modules."""
    student = build_student(UNeXtConfig(), 2, seed)
    batch = Batch(
        randn(2, 3, 64, 64, dtype=torch.float32),
        (randn(2, 8, 8) > 0.5).long().repeat_interleave(8, 1).repeat_interleave(8, 2),
        {k: randn(2, 16, 64 // int(k[1:]), 64 // int(k[1:]), dtype=torch.float32) for k in student.channels},
        [""] * 2,
        seed,
    )
    method = SwardConfig(pdr=PDRConfig(features="penultimate")).build(
        dict.fromkeys(student.channels, 16), student.channels, 2, 16
    )
    method.prepare(batch, {k: (f.mean((0, 2, 3)), f.std((0, 2, 3))) for k, f in batch.features.items()})
    objective = Objective(method)
    optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=1e-3)
    totals = []
    for step in range(200):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = objective(student(batch.images), batch, step).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    return sum(totals[-20:]) / 20


@pytest.mark.slow
def test_two_hundred_steps_in_bf16_end_within_the_noise_of_seeds() -> None:
    wide, mixed = ([last_loss(seed, bf16) for seed in range(3)] for bf16 in (False, True))
    assert abs(statistics.mean(mixed) - statistics.mean(wide)) < 2 * statistics.stdev(wide), (wide, mixed)
