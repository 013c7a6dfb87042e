"""MWAD against the equations written as loops, its switches, gradients, and the facts behind the defaults."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sward import MWAD, MWADConfig, seeds
from sward.contracts import IGNORE
from sward.mwad.config import MWADConfig as Config
from sward.mwad.monitors import alarms
from sward.mwad.projections import fit_gain, principal_axes

TEACHER, STUDENT = {"s8": 5, "s16": 6}, {"s8": 3, "s16": 4}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def features(sizes: dict[str, tuple[int, int]], channels: dict[str, int], seed: int) -> dict[str, Tensor]:
    return {k: randn(2, channels[k], *sizes[k], seed=seed + i) for i, k in enumerate(channels)}


def built(**switches: Any) -> MWAD:
    """A float64 module with every parameter and buffer at a random value, as if trained for a while."""
    mwad = MWAD(TEACHER, STUDENT, Config(**switches), num_classes=3).double()
    mwad.prepared.fill_(True)
    with torch.no_grad():
        for i, parameter in enumerate(mwad.parameters()):
            parameter.copy_(0.7 * randn(*parameter.shape, seed=100 + i))
        for i, stage in enumerate(mwad.stages.values()):
            stage.mean.copy_(randn(*stage.mean.shape, seed=200 + i))
            stage.std.copy_(0.5 + randn(*stage.std.shape, seed=300 + i).abs())
    return mwad


# ---- the equations, one pixel, window and token at a time ------------------------------------------------


def conv1x1(conv: torch.nn.Module, f: np.ndarray) -> np.ndarray:
    weight = conv.weight.detach().numpy()[:, :, 0, 0]
    bias = 0 if conv.bias is None else conv.bias.detach().numpy()
    B, _, H, W = f.shape
    out = np.zeros((B, len(weight), H, W))
    for b, y, x in np.ndindex(B, H, W):
        out[b, :, y, x] = weight @ f[b, :, y, x] + bias
    return out


def bilinear(f: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    def taps(i: int, old: int, new: int) -> tuple[int, int, float]:
        at = max((i + 0.5) * old / new - 0.5, 0.0)
        low = min(int(at), old - 1)
        return low, min(low + 1, old - 1), at - low

    out = np.zeros((*f.shape[:2], *size))
    for y, x in np.ndindex(*size):
        (y0, y1, v), (x0, x1, u) = taps(y, f.shape[2], size[0]), taps(x, f.shape[3], size[1])
        top, bottom = f[:, :, y0, x0] * (1 - u) + f[:, :, y0, x1] * u, f[:, :, y1, x0] * (1 - u) + f[:, :, y1, x1] * u
        out[:, :, y, x] = top * (1 - v) + bottom * v
    return out


def windows_of(f: np.ndarray, M: int, dx: int, dy: int, pad_first: bool) -> list[list[tuple[Any, np.ndarray]]]:
    """Windows of (source pixel or None, token vector) of one image (C, H, W)."""
    C, H, W = f.shape
    Hp, Wp = -(-H // M) * M, -(-W // M) * M
    windows = []
    for a in range(0, Hp, M):
        for b in range(0, Wp, M):
            window = []
            for r in range(a, a + M):
                for c in range(b, b + M):
                    if pad_first:
                        y, x = (r + dy) % Hp, (c + dx) % Wp
                        real = y < H and x < W
                    else:
                        real = r < H and c < W
                        y, x = (r + dy) % H, (c + dx) % W
                    window.append(((y, x), f[:, y, x]) if real else (None, np.zeros(C)))
            windows.append(window)
    return windows


def attend(theta: torch.nn.Module, window: list, config: Config, dx: int, dy: int) -> tuple[list, list, list]:
    """Rows of A (key -> weight), V and Z of one window."""
    weight = theta.weight.detach().numpy()[:, :, 0, 0]
    bias = np.zeros(len(weight)) if theta.bias is None else theta.bias.detach().numpy()
    d = len(weight) // 3
    qkv = [weight @ token + bias for _, token in window]
    rows, contexts = [], []
    for t, (p, _) in enumerate(window):
        scores = {}
        for u, (q, _) in enumerate(window):
            if config.mask_padding and q is None:
                continue
            side_p, side_q = p and (p[0] < dy, p[1] < dx), q and (q[0] < dy, q[1] < dx)
            if config.seam_mask and (dx or dy) and p and q and side_p != side_q:
                continue
            scores[u] = sum(qkv[t][i] * qkv[u][d + i] for i in range(d)) / math.sqrt(d)
        total = math.fsum(math.exp(s) for s in scores.values()) if scores else 1.0
        rows.append({u: math.exp(s) / total for u, s in scores.items()})
        contexts.append(sum((a * qkv[u][2 * d :] for u, a in rows[-1].items()), np.zeros(d)))
    return rows, [v[2 * d :] for v in qkv], contexts


def cosine(a: np.ndarray, b: np.ndarray, eps: float) -> float:
    return float(a @ b) / (max(math.sqrt(a @ a), eps) * max(math.sqrt(b @ b), eps))


def stage_loops(mwad: MWAD, t: str, f_t: Tensor, f_s: Tensor, M: int, offset: tuple[int, int]) -> dict[str, float]:
    config, stage = mwad.config, mwad.stages[t]
    f = f_t.numpy()
    if config.standardise:
        f = (f - stage.mean.numpy()[:, None, None]) / stage.std.numpy()[:, None, None]
    size = min(f_t.shape[2], f_s.shape[2]), min(f_t.shape[3], f_s.shape[3])
    grid_t, grid_s = bilinear(conv1x1(stage.phi, f), size), bilinear(f_s.detach().numpy(), size)
    M, (dx, dy) = min(M, *size), offset
    kl = value = context = 0.0
    queries = pairs = windows = 0
    for image_t, image_s in zip(grid_t, grid_s, strict=True):
        cut = [windows_of(image, M, dx, dy, config.roll == "after_padding") for image in (image_t, image_s)]
        for window_t, window_s in zip(*cut, strict=True):
            A_t, V_t, Z_t = attend(stage.theta_t, window_t, config, dx, dy)
            A_s, V_s, Z_s = attend(stage.theta_s, window_s, config, dx, dy)
            windows += 1
            for q, (pixel, _) in enumerate(window_t):
                if pixel is None and config.mask_padding:
                    continue
                queries += 1
                pairs += len(A_t[q])
                kl += sum(a * (math.log(a) - math.log(A_s[q][u])) for u, a in A_t[q].items())
                value += 1 - cosine(V_t[q], V_s[q], config.value_eps)
                square = [(a - b) ** 2 for a, b in zip(Z_t[q], Z_s[q], strict=True)]
                context += sum(square) / (len(square) if config.context_reduction == "mean" else 1)
    divisor = {"tokens": queries, "batchmean": windows, "mean": pairs}[config.kl_reduction]
    return {"attn": kl / divisor, "value": value / queries, "context": context / queries}


def loops(mwad: MWAD, teacher: dict, student: dict, offsets: dict[str, tuple[int, int]]) -> dict[str, float]:
    found = [
        stage_loops(mwad, t, teacher[t], student[s], side, offsets[t])
        for (t, s), side in zip(mwad.pairs, mwad.sides, strict=True)
    ]
    return {name: sum(f[name] for f in found) / len(found) for name in mwad.config.terms.split("+")}


DIVISIBLE = ({"s8": (8, 8), "s16": (4, 8)}, {"s8": (8, 8), "s16": (4, 8)})
PADDED = ({"s8": (7, 9), "s16": (5, 6)}, {"s8": (9, 8), "s16": (3, 6)})  # resized both ways, then padded


@pytest.mark.parametrize("sizes", [DIVISIBLE, PADDED], ids=["divisible", "padded"])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"preset": "paper"},
        {"terms": "attn"},
        {"terms": "attn+value"},
        {"bias": True, "mask_padding": False},
        {"mask_padding": False},
        {"seam_mask": True},
        {"seam_mask": True, "mask_padding": False},
        {"roll": "after_padding"},
        {"roll": "after_padding", "seam_mask": True, "bias": True},
        {"kl_reduction": "batchmean"},
        {"kl_reduction": "mean"},
        {"kl_reduction": "mean", "seam_mask": True},
        {"kl_reduction": "mean", "mask_padding": False},
        {"context_reduction": "sum", "standardise": False},
        {"max_width": 2},
        {"window": [4, 3]},
        {"teacher_proj": "learned"},
    ],
    ids=str,
)
def test_the_terms_equal_the_equations_written_as_loops(sizes: tuple, switches: dict[str, Any]) -> None:
    mwad = built(**({"window": 4} | switches))
    teacher, student = features(sizes[0], TEACHER, 0), features(sizes[1], STUDENT, 10)
    offsets = {"s8": (3, 1), "s16": (0, 2)}
    found = mwad(teacher, student, seed=0, step=0, offsets=offsets)
    expected = loops(mwad, teacher, student, offsets)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("shift", ["none", "deterministic", "stochastic"])
def test_every_shift_uses_the_offsets_it_names(shift: str) -> None:
    mwad = built(window=4, shift=shift)
    teacher, student = features(PADDED[0], TEACHER, 0), features(PADDED[1], STUDENT, 10)
    for step in range(2):
        drawn = {t: tuple(seeds.integers(2, m, 5, "offsets", step, t)) for t, m in (("s8", 4), ("s16", 3))}
        fixed = {"s8": (2, 2), "s16": (1, 1)} if shift == "deterministic" else {"s8": (0, 0), "s16": (0, 0)}
        expected = loops(mwad, teacher, student, drawn if shift == "stochastic" else fixed)
        found = mwad(teacher, student, seed=5, step=step)
        assert {k: v.item() for k, v in found.items()} == pytest.approx(expected, rel=1e-10)


def test_the_paper_is_one_word_and_what_is_stated_wins() -> None:
    paper = MWADConfig(preset="paper", bias=False)
    assert (paper.teacher_proj, paper.standardise, paper.gain, paper.context_reduction) == (
        "learned",
        False,
        1.0,
        "sum",
    )
    assert not paper.bias
    assert MWADConfig(**paper.model_dump()) == paper
    assert MWADConfig() == MWADConfig(preset="recommended")


# ---- gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, {"preset": "paper"}, {"seam_mask": True, "kl_reduction": "mean"}], ids=str)
def test_gradients_to_the_student_are_those_of_finite_differences(switches: dict[str, Any]) -> None:
    mwad = built(window=2, **switches)
    teacher = features({"s8": (3, 4), "s16": (2, 2)}, TEACHER, 0)
    inputs = [randn(2, 3, 3, 4, seed=1).requires_grad_(), randn(2, 4, 2, 3, seed=2).requires_grad_()]

    def total(f8: Tensor, f16: Tensor) -> Tensor:
        terms = mwad(teacher, {"s8": f8, "s16": f16}, seed=0, step=0)
        return terms["attn"] + 2 * terms["value"] + 3 * terms["context"]

    assert torch.autograd.gradcheck(total, inputs)


def test_gradients_to_learned_projections_are_those_of_finite_differences() -> None:
    mwad = built(window=2, teacher_proj="learned", bias=True)
    teacher = features({"s8": (3, 2), "s16": (2, 2)}, TEACHER, 0)
    student = features({"s8": (3, 2), "s16": (2, 2)}, STUDENT, 3)
    names = ["stages.s8.phi.weight", "stages.s8.theta_t.weight", "stages.s8.theta_s.bias"]

    def total(*values: Tensor) -> Tensor:
        call = torch.func.functional_call(
            mwad, dict(zip(names, values, strict=True)), (teacher, student), {"seed": 0, "step": 0}
        )
        return torch.stack(list(call.values())).sum()

    parameters = [mwad.get_parameter(n).detach().clone().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(total, parameters)


@pytest.mark.parametrize("mode", ["frozen", "learned", "aux"])
def test_the_mode_decides_what_is_trained_and_the_teacher_never_gets_a_gradient(mode: str) -> None:
    mwad = built(window=4, teacher_proj=mode)
    teacher = {k: f.requires_grad_() for k, f in features(PADDED[0], TEACHER, 0).items()}
    student = {k: f.requires_grad_() for k, f in features(PADDED[1], STUDENT, 10).items()}
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    terms = mwad(teacher, student, seed=0, step=0, labels=labels)
    assert ("aux" in terms) == (mode == "aux")
    sum(terms.values()).backward()
    assert all(f.grad is None for f in teacher.values())
    assert all(f.grad.abs().sum() > 0 for f in student.values())
    trained = {name for name, p in mwad.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in mwad.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("phi" in name for name in trained) == (mode != "frozen")


def test_aux_trains_the_teacher_side_by_its_own_term_alone() -> None:
    mwad = built(window=4, teacher_proj="aux")
    teacher, student = features(PADDED[0], TEACHER, 0), features(PADDED[1], STUDENT, 10)
    labels = torch.full((2, 16, 16), IGNORE)
    terms = mwad(teacher, student, seed=0, step=0, labels=labels)
    assert terms["aux"] == 0
    (terms["attn"] + terms["value"] + terms["context"]).backward()
    assert all(stage.phi.weight.grad is None and stage.theta_t.weight.grad is None for stage in mwad.stages.values())
    with pytest.raises(ValueError, match="give labels"):
        mwad(teacher, student, seed=0, step=0)
    with pytest.raises(ValueError, match="give num_classes"):
        MWAD(TEACHER, STUDENT, Config(teacher_proj="aux"))


# ---- properties -------------------------------------------------------------------------------------------


def test_terms_are_zero_where_the_student_has_the_teachers_features_and_projections() -> None:
    mwad = MWAD({"s8": 4}, {"s8": 4}, Config(standardise=False, phi_init="orthogonal", gain=1.5)).double()
    stage = mwad.stages["s8"]
    stage.theta_s.load_state_dict(stage.theta_t.state_dict())
    f = randn(2, 4, 13, 21)
    terms = mwad({"s8": f}, {"s8": stage.teacher(f)}, seed=0, step=0)
    assert all(abs(term.item()) < 1e-14 for term in terms.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    mwad = built(window=4).float()
    teacher = {k: f.to(dtype) for k, f in features(PADDED[0], TEACHER, 0).items()}
    student = {k: f.to(dtype) for k, f in features(PADDED[1], STUDENT, 10).items()}
    exact = mwad({k: f.float() for k, f in teacher.items()}, {k: f.float() for k, f in student.items()}, seed=0, step=0)
    with torch.autocast("cpu", torch.bfloat16):
        found = mwad(teacher, student, seed=0, step=0)
    assert all(found[k].dtype == torch.float32 and torch.equal(found[k], exact[k]) for k in exact)


def test_padding_matters_unless_it_is_masked() -> None:
    f = {"s8": randn(2, 5, 13, 21)}
    student = {"s8": randn(2, 3, 13, 21, seed=1)}
    found = {}
    for masked in (True, False):
        mwad = MWAD({"s8": 5}, {"s8": 3}, Config(mask_padding=masked, gain=2.0, phi_init="orthogonal")).double()
        mwad.prepare(f)
        found[masked] = mwad(f, student, seed=0, step=0, offsets={"s8": (0, 0)})
    assert found[True]["attn"] / found[False]["attn"] - 1 > 0.2
    padded = 1 - 13 * 21 / (16 * 24)
    kept = found[True]["value"] * (1 - padded) + padded  # every padded token adds the constant 1
    torch.testing.assert_close(found[False]["value"], kept)


def test_paper_initialisation_leaves_attention_uniform_and_its_loss_vacuous() -> None:
    teacher = {"s8": randn(2, 96, 16, 16, dtype=torch.float32)}
    student = {"s8": randn(2, 24, 16, 16, seed=1, dtype=torch.float32)}
    mwad = MWAD({"s8": 96}, {"s8": 24}, Config(preset="paper"))
    assert mwad.signal(teacher, {"s8": (16, 16)}, seed=0, step=0)["s8"]["entropy"] > 0.98
    literal = mwad(teacher, student, seed=0, step=0)["attn"].item()
    assert literal < 0.1  # white features of unit scale; it falls with the fourth power of the scale
    small = ({k: 0.3 * f for k, f in side.items()} for side in (teacher, student))
    assert 1e-5 < mwad(*small, seed=0, step=0)["attn"] < 1e-3
    mwad = MWAD({"s8": 96}, {"s8": 24})
    mwad.prepare(teacher)
    assert mwad(teacher, student, seed=0, step=0)["attn"].item() > 20 * literal


def test_learned_projections_with_biases_collapse_and_the_alarm_says_so() -> None:
    teacher = {"s8": randn(4, 16, 8, 8, dtype=torch.float32)}
    student = {"s8": randn(4, 8, 8, 8, seed=1, dtype=torch.float32).requires_grad_()}

    def values_after(steps: int, **switches: Any) -> float:
        mwad = MWAD({"s8": 16}, {"s8": 8}, Config(preset="paper", **switches))
        optimizer = torch.optim.AdamW([p for p in mwad.parameters() if p.requires_grad], lr=2e-2)
        for step in range(steps):
            optimizer.zero_grad()
            sum(mwad(teacher, student, seed=0, step=step).values()).backward()
            optimizer.step()
        return mwad.signal(teacher, {"s8": (8, 8)}, seed=0, step=0)["s8"]["cosine"].item()

    before, after, frozen = values_after(0), values_after(120), values_after(120, teacher_proj="frozen")
    assert before < 0.5
    assert after > 0.9
    assert frozen == before
    assert "one direction" in alarms({"signal/s8/cosine": after})[0]


# ---- preparation ------------------------------------------------------------------------------------------


def test_preparation_reaches_the_entropy_and_unit_variance_it_promises() -> None:
    teacher = {"s8": 3 + 5 * randn(2, 20, 24, 24, dtype=torch.float32).cumsum(1)}
    mwad = MWAD({"s8": 20}, {"s8": 6})
    mwad.prepare(teacher, seed=3)
    stage = mwad.stages["s8"]
    projected = stage.teacher(teacher["s8"])
    assert projected.var((0, 2, 3)).mean().item() == pytest.approx(1, rel=1e-3)
    assert mwad.signal(teacher, {"s8": (24, 24)}, seed=0, step=0)["s8"]["entropy"].item() == pytest.approx(
        0.65, abs=0.03
    )
    rotation = stage.theta_t.weight[:6, :, 0, 0] / stage.gain
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6))
    torch.testing.assert_close(stage.theta_t.weight[12:, :, 0, 0].norm(dim=1), torch.ones(6))  # V has no gain


def test_preparation_depends_on_its_arguments_alone_and_survives_a_checkpoint() -> None:
    teacher, student = features(PADDED[0], TEACHER, 0), features(PADDED[1], STUDENT, 10)
    statistics = {k: (torch.zeros(c), torch.full((c,), 2.0)) for k, c in TEACHER.items()}
    before = torch.get_rng_state()
    first, second, other = (MWAD(TEACHER, STUDENT) for _ in range(3))
    first.prepare(teacher, statistics, seed=1)
    second.prepare(teacher, statistics, seed=1)
    second.prepare(teacher, statistics, seed=1)
    other.prepare(teacher, statistics, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    states = [m.state_dict() for m in (first, second, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["stages.s8.theta_s.weight"], states[2]["stages.s8.theta_s.weight"])
    assert states[0]["stages.s8.std"].eq(2).all()
    restored = MWAD(TEACHER, STUDENT)
    restored.load_state_dict(states[0])
    kwargs = {"seed": 0, "step": 3}
    assert restored(teacher, student, **kwargs) == first(teacher, student, **kwargs)


def test_principal_axes_carry_the_variance_of_the_best_subspace() -> None:
    f = randn(500, 8) @ randn(8, 8, seed=1)
    axes = principal_axes(f, 3, "s8")
    basis = axes / axes.norm(dim=1, keepdim=True)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))
    _, singular, _ = torch.linalg.svd(f - f.mean(0))
    torch.testing.assert_close(((f - f.mean(0)) @ basis.T).square().sum(), singular[:3].square().sum())
    assert principal_axes(f, 10, "s8")[8:].eq(0).all()


def test_what_cannot_be_prepared_is_refused_with_a_reason() -> None:
    flat = {k: torch.ones(2, c, 8, 8) for k, c in TEACHER.items()}
    with pytest.raises(ValueError, match=r"s8: the calibration batch's teacher features are constant"):
        MWAD(TEACHER, STUDENT).prepare(flat)
    with pytest.raises(ValueError, match=r"s8: no gain gives a normalised entropy of 0.65 .* set mwad.gain"):
        fit_gain(torch.zeros(3, 4, 4), 0.65, "s8")
    with pytest.raises(RuntimeError, match=r"not prepared: call prepare\(features\)"):
        MWAD(TEACHER, STUDENT)(flat, flat, seed=0, step=0)


def test_a_channel_that_is_constant_in_the_statistics_is_not_amplified() -> None:
    mwad = MWAD({"s8": 4}, {"s8": 3})
    f = randn(2, 4, 8, 8, dtype=torch.float32)
    f[:, 1] = 0.3
    mwad.prepare({"s8": f})
    assert mwad.stages["s8"].std[1] == 1


# ---- errors -----------------------------------------------------------------------------------------------


def test_wrong_features_are_named_with_what_was_expected() -> None:
    mwad = built(window=4)
    teacher, student = features(PADDED[0], TEACHER, 0), features(PADDED[1], STUDENT, 10)
    with pytest.raises(ValueError, match=r"no teacher features of level s16; found \['s8'\]"):
        mwad({"s8": teacher["s8"]}, student, seed=0, step=0)
    with pytest.raises(ValueError, match=r"student s8: found shape \(2, 5, 7, 9\), expected \(B, 3, H, W\)"):
        mwad(teacher, {"s8": teacher["s8"], "s16": student["s16"]}, seed=0, step=0)
    with pytest.raises(ValueError, match=r"mwad.window has 3 sides for 2 stages"):
        MWAD(TEACHER, STUDENT, Config(window=[8, 8, 8]))


@pytest.mark.parametrize(
    "wrong",
    [{"gain": 0}, {"window": 0}, {"entropy": 1.0}, {"terms": "value"}, {"max_width": 0}, {"windows": 8}],
    ids=str,
)
def test_impossible_switches_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MWADConfig(**wrong)
