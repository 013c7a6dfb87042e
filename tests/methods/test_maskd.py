"""MasKD by loops in both forms; its pre-stage with a real head; what is frozen and what follows which seed."""

import pytest
import torch
from prestages import ALL, CHANNELS, descend, dice_by_loops, make_batch, make_head, masks_by_loops, only
from rivals import CLASSES, STUDENT, TEACHER, assert_equals_loops, build, labels_of, maps, projected, randn, terms

from sward.contracts import Batch, StudentOutput
from sward.methods.masked.mask_tokens import dice, masks
from sward.methods.masked.maskd import MasKDConfig
from sward.task import cross_entropy

SEGMENTATION = {"level": "s32", "form": "segmentation", "tokens": 3}
DETECTION = {"level": "s32", "tokens": 3}


def token_weights(stage, f):
    N, C, H, W = f.shape
    near = torch.stack(
        [
            sum(
                stage.near.weight[k, c, a + 1, b + 1] * f[n, c, y + a, x + b]
                for y in range(H)
                for x in range(W)
                for c in range(C)
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
                if 0 <= y + a < H and 0 <= x + b < W
            )
            / (H * W)
            + stage.near.bias[k]
            for n in range(N)
            for k in range(C)
        ]
    ).view(N, C, 1, 1)
    scores = projected(stage.choose, near)[..., 0, 0].exp()
    return scores / scores.sum(1, keepdim=True)


def evenly(T):
    return torch.full((2, T), 1 / T, dtype=torch.float64)


def masked_by_loops(y_s, f_t, M, p, half, eps):
    total = 0
    for n in range(len(M)):
        for t in range(M.shape[1]):
            for c in range(f_t.shape[1]):
                distance = sum((M[n, t] * (y_s - f_t)[n, c]).flatten() ** 2) / (sum(M[n, t].flatten()) + eps)
                total = total + p[n, t] * distance
    return half * total / (len(M) * f_t.shape[1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("teacher", [STUDENT, TEACHER])
def test_the_segmentation_form_is_half_the_mean_over_samples_tokens_and_channels(teacher, weighted):
    method = build(MasKDConfig(**SEGMENTATION, token_weights=weighted), teacher=teacher)
    assert (method.align is None) == (teacher == STUDENT)

    def loops(f_s, f_t):
        y_s = f_s if method.align is None else projected(method.align, f_s)
        M = masks_by_loops(method.masks.tokens, f_t)
        p = token_weights(method.masks, f_t) if weighted else evenly(3)
        return masked_by_loops(y_s, f_t, M, p, 0.5, 1e-5)

    assert_equals_loops(method, "masked", loops, *maps(3, 4, teacher=teacher))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("step", "own"), [(9, False), (10, True)])
def test_the_detection_form_has_neither_half_nor_eps_and_then_the_students_masks(weighted, step, own):
    method = build(MasKDConfig(**DETECTION, token_weights=weighted, student_masks_after=10))

    def loops(f_s, f_t):
        y_s = projected(method.align, f_s)
        M = masks_by_loops(method.masks.tokens, f_t)
        if own:
            M = M * masks_by_loops(method.masks.tokens, y_s.detach())
        p = token_weights(method.masks, f_t) if weighted else evenly(3)
        return masked_by_loops(y_s, f_t, M, p, 1, 0)

    assert_equals_loops(method, "masked", loops, *maps(3, 4), step=step)


def test_by_default_it_masks_logits_without_an_aligner_and_trains_nothing_of_its_own():
    method = MasKDConfig().build(ALL, {"s32": 5}, CLASSES, 9).double()
    method.masks.tokens.copy_(randn(8, CLASSES, seed=7))
    assert (method.needs, method.student_level, method.align) == (("logits",), "logits", None)
    assert not [p for p in method.parameters() if p.requires_grad]
    z_s, z_t = maps(3, 4, teacher=CLASSES, student=CLASSES)
    batch = Batch(z_t.new_zeros(2, 3, 8, 8), labels_of(z_t), {"logits": z_t}, ["a/0", "b/0"])
    found = method(StudentOutput(z_s, {}, z_s), batch, step=5000)["masked"]
    M = masks_by_loops(method.masks.tokens, z_t)
    torch.testing.assert_close(found, masked_by_loops(z_s, z_t, M, evenly(8), 0.5, 1e-5))


def test_unstated_fields_follow_the_form_and_the_form_the_tensor():
    assert (MasKDConfig().form, MasKDConfig().tokens, MasKDConfig().student_masks_after) == ("segmentation", 8, None)
    detection = MasKDConfig(level="penultimate")
    assert (detection.form, detection.tokens, detection.token_weights) == ("detection", 6, True)
    assert detection.student_masks_after == 1000
    assert MasKDConfig(form="detection").tokens == 6
    assert MasKDConfig(level="s32", form="segmentation").tokens == 8
    assert not MasKDConfig(level="s32", token_weights=False).token_weights
    assert MasKDConfig.model_validate_json(detection.model_dump_json()) == detection
    assert MasKDConfig(level="s32").uses_head
    assert not MasKDConfig(level="s32", masks="random").uses_head
    assert MasKDConfig(masks="random").uses_head


def test_an_equal_student_costs_nothing_and_a_mask_of_zeros_neither():
    method = build(MasKDConfig(**SEGMENTATION), teacher=STUDENT)
    _, f_t = maps(teacher=STUDENT)
    assert terms(method, f_t, f_t)["masked"] == 0
    detection = build(MasKDConfig(**DETECTION, token_weights=False))
    assert detection.masked(randn(2, 4, 4, 6, seed=4), maps()[1], torch.zeros(2, 3, 4, 6).double()) == 0


def test_overlap_is_the_mean_dice_of_different_tokens_one_where_they_agree_and_zero_where_they_never_meet():
    M = masks(randn(4, TEACHER, seed=1), randn(2, TEACHER, 3, 5, seed=2))
    torch.testing.assert_close(dice(M), dice_by_loops(M))
    assert dice(M[:, :1].repeat(1, 3, 1, 1)).item() == pytest.approx(1)
    assert dice(torch.eye(3).view(1, 3, 1, 3)) == 0


@pytest.mark.parametrize(
    ("level", "weighted"), [("logits", False), ("penultimate", False), ("s16", False), ("s16", True)]
)
def test_the_pre_stage_replaces_the_tensor_by_its_masked_sum_and_adds_the_overlap(level, weighted):
    head = make_head()
    batch = make_batch(head, side=32)
    stage = MasKDConfig(level=level, tokens=2, token_weights=weighted).build(ALL, {"s32": 5}, CLASSES, 9).prestage()
    stage.double()
    for i, p in enumerate(stage.parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=i))
    found = stage(only(batch, stage.needs), None if level == "logits" else head)
    f_t = batch.features[level]
    M = masks_by_loops(stage.tokens, f_t)
    p = token_weights(stage, f_t) if weighted else torch.ones(2, 2).double()
    masked = sum(p[:, t, None, None, None] * M[:, t, None] * f_t for t in range(2))
    logits = {"logits": lambda: masked, "penultimate": lambda: head.classifier(masked)}.get(
        level, lambda: head(batch.features | {level: masked}).logits
    )()
    wanted = {"task": cross_entropy(logits, batch.labels), "overlap": dice_by_loops(M)}
    assert found.keys() == wanted.keys()
    for name, term in found.items():
        torch.testing.assert_close(term, wanted[name], rtol=1e-10, atol=0)
    g, h = (torch.autograd.grad(sum(t.values()), stage.tokens)[0] for t in (found, wanted))
    assert (g - h).norm() <= 1e-8 * h.norm()


@pytest.mark.parametrize("level", ["logits", "penultimate", "s16"])
def test_the_pre_stage_lowers_its_loss_and_is_adopted_frozen(level):
    head = make_head()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    method = MasKDConfig(level=level).build(ALL, {"s16": 4, "s32": 5}, CLASSES, 9).double()
    stage = method.prestage().double()
    assert torch.equal(stage.tokens.float(), method.masks.tokens.float())  # both from the pre-stage's seed
    lines = descend(stage, make_batch(head), None if level == "logits" else head)
    assert sum(lines[-1].values()) < sum(lines[0].values())
    assert all(torch.equal(v, head.state_dict()[k]) for k, v in before.items())
    assert not torch.equal(stage.tokens, method.masks.tokens)
    method.load_prestage(stage.state_dict())
    learned = method.masks.tokens.clone()
    assert torch.equal(learned, stage.tokens)
    assert not [n for n, p in method.named_parameters() if p.requires_grad and not n.startswith("align")]
    method.prepare(Batch(torch.zeros(1), torch.zeros(1), {}, [], seed=9), {})
    assert torch.equal(method.masks.tokens, learned)
    stage.tokens.data.zero_()
    assert torch.equal(method.masks.tokens, learned)


def test_tokens_follow_the_pre_stages_seed_and_the_aligner_the_runs():
    def tokens(**changes):
        return MasKDConfig(level="s32", prestage=changes).build(CHANNELS, {"s32": 5}, CLASSES, 9)

    first, other = tokens(), tokens(seed=1)
    assert not torch.equal(first.masks.tokens, other.masks.tokens)
    assert not torch.equal(first.masks.near.weight, other.masks.near.weight)
    start = first.masks.state_dict()["near.weight"].clone()
    aligned = []
    for seed in (1, 2, 1):
        first.prepare(Batch(torch.zeros(1), torch.zeros(1), {}, [], seed=seed), {})
        aligned.append(first.align.weight.clone())
    assert torch.equal(aligned[0], aligned[2])
    assert not torch.equal(aligned[0], aligned[1])
    assert torch.equal(first.masks.near.weight, start)
    many = MasKDConfig(level="s32", tokens=200).build({"s32": 100}, {"s32": 5}, CLASSES, 9).masks.tokens
    assert 0.0095 < many.std() < 0.0105


def test_the_pre_stage_says_what_it_depends_on_and_asks_for_the_head_by_name():
    method = MasKDConfig(level="s16").build(ALL, {"s16": 4}, CLASSES, 9)
    stage = method.prestage()
    assert stage.needs == tuple(CHANNELS)
    assert stage.key == {"kind": "maskd", "level": "s16", "channels": 5, "tokens": 6, "token_weights": True}
    with pytest.raises(ValueError, match=r"masked s16 through the teacher's head.*sward fit-head CONFIG"):
        stage.double()(only(make_batch(make_head()), stage.needs), None)
    assert MasKDConfig(masks="random").build(ALL, {"s16": 4}, CLASSES, 9).prestage() is None
