"""FreeKD by the literal loops over tokens; its pre-stage through a real head; what is frozen, what is summed."""

import pytest
import torch
from prestages import ALL, CHANNELS, descend, dice_by_loops, make_batch, make_head, masks_by_loops, only
from pydantic import ValidationError
from rivals import CLASSES, STUDENT, TEACHER, assert_equals_loops, build, maps, projected, randn, terms

from sward.contracts import Batch, StudentOutput
from sward.methods.masked import haar
from sward.methods.masked.freekd import FreeKDConfig
from sward.task import cross_entropy


def frequency_by_loops(y_s, f_t, prompt):
    """Every masked detail of every token is made and compared, as the authors' code does."""
    total = 0
    (_, wanted), (_, found) = haar.forward(f_t, 3), haar.forward(y_s, 3)
    for level, (d_t, d_s) in enumerate(zip(wanted, found, strict=True), start=1):
        M = masks_by_loops(prompt[level], d_t[:, :, 0] + d_t[:, :, 1] + d_t[:, :, 2])
        N, C, _, h, w = d_t.shape
        cells = [
            (M[n, t, y, x] * d_s[n, c, o, y, x] - M[n, t, y, x] * d_t[n, c, o, y, x]).abs()
            for n in range(N)
            for t in range(len(prompt[0]))
            for c in range(C)
            for o in range(3)
            for y in range(h)
            for x in range(w)
        ]
        total = total + sum(cells) / len(cells)
    return total


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_both_terms_are_those_of_the_literal_loops(size):
    method = build(FreeKDConfig(tokens=3))
    stage = method.stages["s32"]

    def frequency(f_s, f_t):
        return frequency_by_loops(projected(stage.align, f_s), f_t, stage.prompt)

    def mse(f_s, f_t):
        pairs = zip(projected(stage.align, f_s).flatten(), f_t.flatten(), strict=True)
        return sum((a - b) ** 2 for a, b in pairs) / f_t.numel()

    assert_equals_loops(method, "frequency", frequency, *maps(*size))
    assert_equals_loops(method, "mse", mse, *maps(*size))


def test_an_equal_student_costs_nothing_and_a_constant_costs_no_detail():
    method = build(FreeKDConfig(), teacher=STUDENT)
    stage, (_, f_t) = method.stages["s32"], maps(8, 8, teacher=STUDENT)
    stage.align.load_state_dict({"weight": torch.eye(STUDENT)[..., None, None], "bias": torch.zeros(STUDENT)})
    assert all(term == 0 for term in terms(method, f_t, f_t).values())
    shifted = terms(method, f_t + 1, f_t)
    assert shifted["frequency"] < 1e-12
    torch.testing.assert_close(shifted["mse"].detach(), torch.ones(()).double())


def test_the_low_bands_prompt_plays_no_part_in_the_distillation():
    method, (f_s, f_t) = build(FreeKDConfig()), maps()
    before = terms(method, f_s, f_t)["frequency"]
    prompt = method.stages["s32"].prompt
    prompt.data[0] += 1
    assert torch.equal(terms(method, f_s, f_t)["frequency"], before)
    prompt.data[3] += 1
    assert not torch.equal(terms(method, f_s, f_t)["frequency"], before)


def test_stages_are_summed_and_each_gives_what_it_gives_alone():
    student = {"s8": 4, "s16": 3, "s32": 5}

    def found(*levels):
        method = FreeKDConfig(levels=levels).build(CHANNELS, student, CLASSES, 9)
        assert method.needs == levels
        features = {k: randn(2, C, 8, 8, seed=i).float() for i, (k, C) in enumerate(CHANNELS.items())}
        output = StudentOutput(features["s4"], {k: randn(2, C, 8, 8, seed=C).float() for k, C in student.items()}, None)
        for level, stage in method.stages.items():
            stage.align.weight.data = randn(*stage.align.weight.shape, seed=len(level)).float()
            stage.align.bias.data.zero_()
        return method(output, Batch(torch.zeros(2), torch.zeros(2), features, []), 0)

    together, alone = found("s16", "s32"), [found("s16"), found("s32")]
    for name, term in together.items():
        torch.testing.assert_close(term, alone[0][name] + alone[1][name])


def masked_sum(M, band):
    return sum(M[:, t].view(len(M), 1, *[1] * (band.ndim - 4), *M.shape[2:]) * band for t in range(M.shape[1]))


@pytest.mark.parametrize("levels", [("s16",), ("s16", "s32")])
def test_the_pre_stage_rebuilds_the_stages_from_masked_bands_and_adds_every_overlap(levels):
    head = make_head()
    batch = make_batch(head)
    stage = FreeKDConfig(levels=levels, tokens=2).build(ALL, {"s32": 5}, CLASSES, 9).prestage().double()
    for i, p in enumerate(stage.parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=i))
    found = stage(only(batch, stage.needs), head)
    changed, overlap = {}, 0
    for level in levels:
        low, details = haar.forward(batch.features[level], 3)
        bands = [low, *(d.sum(2) for d in details)]
        M = [masks_by_loops(tokens, band) for tokens, band in zip(stage.prompts[level], bands, strict=True)]
        rebuilt = [masked_sum(m, d) for m, d in zip(M[1:], details, strict=True)]
        changed[level] = haar.inverse(masked_sum(M[0], low), rebuilt, batch.features[level].shape[2:])
        overlap = overlap + sum(dice_by_loops(m) for m in M)
    wanted = {"task": cross_entropy(head(batch.features | changed).logits, batch.labels), "overlap": overlap}
    assert found.keys() == wanted.keys()
    for name, term in found.items():
        torch.testing.assert_close(term, wanted[name], rtol=1e-10, atol=0)
    parameters = list(stage.parameters())
    for g, h in zip(*(torch.autograd.grad(sum(t.values()), parameters) for t in (found, wanted)), strict=True):
        assert (g - h).norm() <= 1e-8 * h.norm()
        assert all(slice_.any() for slice_ in g)


def test_the_pre_stage_lowers_its_loss_and_is_adopted_frozen():
    head = make_head()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    method = FreeKDConfig(levels=("s16", "s32")).build(ALL, {"s16": 4, "s32": 5}, CLASSES, 9).double()
    stage = method.prestage().double()
    lines = descend(stage, make_batch(head), head)
    assert sum(lines[-1].values()) < sum(lines[0].values())
    assert all(torch.equal(v, head.state_dict()[k]) for k, v in before.items())
    method.load_prestage(stage.state_dict())
    method.prepare(Batch(torch.zeros(1), torch.zeros(1), {}, [], seed=9), {})
    for level in ("s16", "s32"):
        assert torch.equal(method.stages[level].prompt, stage.prompts[level])
    frozen = {n for n, p in method.named_parameters() if not p.requires_grad}
    assert frozen == {"stages.s16.prompt", "stages.s32.prompt"}


def test_prompts_follow_the_pre_stages_seed_and_the_aligner_the_runs():
    def start(run_seed, **changes):
        method = FreeKDConfig(prestage=changes).build(CHANNELS, {"s32": 5}, CLASSES, 9)
        method.prepare(Batch(torch.zeros(1), torch.zeros(1), {}, [], seed=run_seed), {})
        return method.stages["s32"].prompt, method.stages["s32"].align.weight

    (prompt, align), (same, other_align), (other, _) = start(1), start(2), start(1, seed=1)
    assert torch.equal(prompt, same)
    assert not torch.equal(prompt, other)
    assert not torch.equal(align, other_align)
    assert prompt.shape == (4, 6, CHANNELS["s32"])


def test_the_pre_stage_says_what_it_depends_on_and_asks_for_the_head_by_name():
    stage = FreeKDConfig().build(ALL, {"s32": 4}, CLASSES, 9).prestage()
    assert stage.needs == tuple(CHANNELS)
    assert stage.key == {"kind": "freekd", "levels": {"s32": 6}, "tokens": 6}
    with pytest.raises(ValueError, match=r"masked s32 through the teacher's head.*sward fit-head CONFIG"):
        stage.double()(only(make_batch(make_head()), stage.needs), None)
    assert FreeKDConfig(prompts="random").build(ALL, {"s32": 4}, CLASSES, 9).prestage() is None
    assert FreeKDConfig().uses_head
    assert not FreeKDConfig(prompts="random").uses_head


def test_stages_are_named_once_and_must_be_in_the_store():
    with pytest.raises(ValidationError, match="levels: s16 twice"):
        FreeKDConfig(levels=("s16", "s32", "s16"))
    with pytest.raises(ValueError, match=r"reads s4, s8; the store has \['s16', 's32'\]"):
        FreeKDConfig(levels=("s4", "s8", "s32")).build({"s16": 7, "s32": TEACHER}, {"s32": 5}, CLASSES, 9)
