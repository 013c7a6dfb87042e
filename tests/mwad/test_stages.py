"""Stages of MWAD: a map that teaches several student levels, and several teachers at once."""

import pytest
import torch

from sward import MWAD, MWADConfig

STUDENT = {"s8": 3, "s16": 4}
SIZES = {"s8": (8, 8), "s16": (4, 4)}


def maps(channels: dict[str, int], sizes: dict[str, tuple[int, int]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, c, *sizes[name], generator=generator) for name, c in channels.items()}


def prepared(channels: dict[str, int], features: dict[str, torch.Tensor], seed: int = 5, **settings) -> MWAD:
    mwad = MWAD(channels, STUDENT, MWADConfig(**settings), num_classes=2)
    mwad.prepare(features, seed=seed)
    return mwad


def test_one_map_may_teach_several_levels_of_the_student():
    teacher, student = maps({"s16": 6}, SIZES, 0), maps(STUDENT, SIZES, 1)
    both = prepared({"s16": 6}, teacher, pairing=[("s16", "s8"), ("s16", "s16")])
    assert list(both.stages) == ["s16>s8", "s16>s16"]
    offsets = {"s16>s8": (1, 0), "s16>s16": (2, 3)}
    found = both(teacher, student, seed=0, step=0, offsets=offsets)
    alone = []
    for own in ("s8", "s16"):
        one = MWAD({"s16": 6}, STUDENT, MWADConfig(pairing=[("s16", own)]))
        one.stages["s16"].load_state_dict(both.stages[f"s16>{own}"].state_dict())
        one.prepared.fill_(True)
        alone.append(one(teacher, student, seed=0, step=0, offsets={"s16": offsets[f"s16>{own}"]}))
    for name, term in found.items():
        torch.testing.assert_close(term, (alone[0][name] + alone[1][name]) / 2)


def test_the_pairs_of_one_map_have_draws_of_their_own_and_a_map_with_one_pair_keeps_its():
    teacher = maps({"s8": 6, "s16": 6}, SIZES, 0)
    one = prepared({"s8": 6, "s16": 6}, teacher)
    several = prepared({"s8": 6, "s16": 6}, teacher, pairing=[("s8", "s8"), ("s16", "s8"), ("s16", "s16")])
    assert list(several.stages) == ["s8", "s16>s8", "s16>s16"]
    assert torch.equal(several.stages["s8"].theta_s.weight, one.stages["s8"].theta_s.weight)
    assert not torch.equal(several.stages["s16>s16"].theta_s.weight, one.stages["s16"].theta_s.weight)


@pytest.mark.parametrize("settings", [{}, {"teacher_proj": "aux"}, {"window": 2, "window_share": 0.5}], ids=str)
def test_several_teachers_add_the_terms_that_each_gives_alone(settings):
    """The same initial weights, windows and means: to the bit, gradients at the student to rounding."""
    a, b = {"s8": 6, "s16": 7}, {"s16@3": 5, "s16@6": 5}
    sizes = SIZES | {"s16@3": (4, 4), "s16@6": (4, 4)}
    first, second = maps(a, sizes, 0), maps(b, sizes, 1)
    joined = {f"a:{k}": f for k, f in first.items()} | {f"b:{k}": f for k, f in second.items()}
    channels = {name: f.shape[1] for name, f in joined.items()}
    student = {k: f.requires_grad_() for k, f in maps(STUDENT, SIZES, 2).items()}
    labels = torch.randint(2, (2, 64, 64), generator=torch.Generator().manual_seed(3))

    def of(channels, features):
        terms = prepared(channels, features, **settings)(features, student, seed=5, step=3, labels=labels)
        return terms, torch.autograd.grad(sum(terms.values()), list(student.values()))

    found, gradients = of(channels, joined)
    (one, g_one), (two, g_two) = of(a, first), of(b, second)
    assert found.keys() == one.keys()
    assert all(torch.equal(found[name], one[name] + two[name]) for name in found)
    for g, g_1, g_2 in zip(gradients, g_one, g_two, strict=True):
        torch.testing.assert_close(g, g_1 + g_2)


def test_monitors_and_offsets_are_named_by_stage():
    teacher, student = maps({"s16": 6}, SIZES, 0), maps(STUDENT, SIZES, 1)
    mwad = prepared({"s16": 6}, teacher, pairing=[("s16", "s8"), ("s16", "s16")])
    assert list(mwad.signal(teacher, SIZES, seed=0, step=0)) == ["s16>s8", "s16>s16"]
    with pytest.raises(
        ValueError, match=r"found offsets of \['s16'\], expected teacher levels of \['s16>s8', 's16>s16"
    ):
        mwad(teacher, student, seed=0, step=0, offsets={"s16": (0, 0)})
