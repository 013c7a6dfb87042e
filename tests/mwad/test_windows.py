"""Windows, offsets, masks, and the pairing of levels and grids."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from sward.align import labels_on_grid, pair_levels, resize
from sward.contracts import IGNORE
from sward.mwad.windows import Windows, draw_offset

CASES = [
    Windows(8, 12, 4),
    Windows(8, 12, 4, dx=3, dy=1),
    Windows(13, 21, 8, dx=5, dy=7),
    Windows(13, 21, 8, dx=5, dy=7, pad_first=True),
    Windows(5, 3, 1),
    Windows(6, 6, 6, dx=2, dy=4),
]


def source(w: Windows, n: int, t: int) -> tuple[int, int] | None:
    """Pixel of the map under token t of window n, from the definition; None in the padding."""
    across = -(-w.width // w.side)
    row, col = n // across * w.side + t // w.side, n % across * w.side + t % w.side
    height, width = w.height, w.width
    if w.pad_first:
        height, width = -(-height // w.side) * w.side, -(-width // w.side) * w.side
    if row >= height or col >= width:
        return None
    row, col = (row + w.dy) % height, (col + w.dx) % width
    return (row, col) if row < w.height and col < w.width else None


def numbered(w: Windows) -> Tensor:
    return torch.arange(w.height * w.width, dtype=torch.float64).view(1, 1, w.height, w.width)


@pytest.mark.parametrize("w", CASES)
def test_every_token_is_the_pixel_that_roll_pad_and_cut_put_there(w: Windows) -> None:
    tokens = w.split(numbered(w), fill=-7)[0, :, :, 0]
    for n in range(len(tokens)):
        for t in range(w.side**2):
            pixel = source(w, n, t)
            assert tokens[n, t] == (-7 if pixel is None else pixel[0] * w.width + pixel[1])


@pytest.mark.parametrize("w", CASES)
def test_windows_hold_every_pixel_exactly_once(w: Windows) -> None:
    values = w.split(numbered(w), fill=-1).flatten()
    assert torch.equal(values[values >= 0].sort().values, numbered(w).flatten())


@pytest.mark.parametrize("w", CASES)
def test_channels_last_maps_are_cut_alike(w: Windows) -> None:
    f = torch.arange(2 * 3 * w.height * w.width).view(2, 3, w.height, w.width).float()
    assert torch.equal(w.split(f), w.split(f.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("w", CASES)
@pytest.mark.parametrize(("padding", "seam"), [(True, False), (False, True), (True, True)])
def test_masks_hide_padding_and_what_the_roll_joined(w: Windows, padding: bool, seam: bool) -> None:
    visible, valid = w.masks(padding, seam, torch.device("cpu"))
    for n in range(w.split(numbered(w)).shape[1]):
        pixels = [source(w, n, t) for t in range(w.side**2)]
        sides = [p and (p[0] < w.dy, p[1] < w.dx) for p in pixels]
        for t, p in enumerate(pixels):
            assert valid is None or valid[n, t] == (p is not None)
            for u, q in enumerate(pixels):
                seen = (q is not None or not padding) and (sides[t] == sides[u] or not seam or p is None or q is None)
                assert (visible is None and seen) or (visible is not None and visible[n, t, u] == seen)


def test_there_is_no_mask_without_padding_and_seam() -> None:
    assert Windows(8, 12, 4, dx=1).masks(True, False, torch.device("cpu")) == (None, None)
    assert Windows(9, 12, 4, dx=1).masks(False, False, torch.device("cpu")) == (None, None)
    assert Windows(8, 12, 4).masks(True, True, torch.device("cpu")) == (None, None)


def test_stochastic_offsets_are_uniform_independent_and_keyed_by_seed_step_and_level() -> None:
    drawn = [draw_offset("stochastic", 4, 0, step, "s8") for step in range(3200)]
    counts = Counter(drawn)
    assert len(counts) == 16
    assert all(130 < n < 270 for n in counts.values())  # 200 expected, sd 13.7
    assert drawn == [draw_offset("stochastic", 4, 0, step, "s8") for step in range(3200)]
    assert drawn != [draw_offset("stochastic", 4, 0, step, "s16") for step in range(3200)]
    assert drawn != [draw_offset("stochastic", 4, 1, step, "s8") for step in range(3200)]


def test_fixed_offsets_are_zero_or_half_a_window() -> None:
    assert draw_offset("none", 8, 0, 5, "s8") == (0, 0)
    assert draw_offset("deterministic", 8, 0, 5, "s8") == (4, 4)
    assert draw_offset("stochastic", 1, 0, 5, "s8") == (0, 0)


TEACHER = ["s4", "s8", "s16", "s32"]


@pytest.mark.parametrize(
    ("student", "pairing", "expected"),
    [
        (["s2", "s4", "s8", "s16", "s32"], "auto", [("s4", "s4"), ("s8", "s8"), ("s16", "s16"), ("s32", "s32")]),
        (["s1", "s2", "s4", "s8"], "auto", [("s4", "s1"), ("s8", "s2"), ("s16", "s4"), ("s32", "s8")]),
        (["s1", "s2", "s4", "s8"], "stride", [("s4", "s4"), ("s8", "s8")]),
        (["s8", "s16"], "auto", [("s8", "s8"), ("s16", "s16")]),
        (["s2", "s4"], "order", [("s16", "s2"), ("s32", "s4")]),
        (["s2", "s4"], [("s32", "s4")], [("s32", "s4")]),
        (["s8", "s16"], [("s16", "s8"), ("s16", "s16")], [("s16", "s8"), ("s16", "s16")]),
    ],
)
def test_levels_pair(student: list[str], pairing: str, expected: list[tuple[str, str]]) -> None:
    assert pair_levels(TEACHER, student, pairing) == expected


def test_impossible_pairs_are_refused_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"teacher has no s2 .*student has no s64 .*the pair s4, s4 is given twice"):
        pair_levels(TEACHER, ["s4"], [("s2", "s4"), ("s4", "s64"), ("s4", "s4"), ("s4", "s4")])
    with pytest.raises(ValueError, match="no levels pair by 'stride'"):
        pair_levels(TEACHER, ["s2"], "stride")
    with pytest.raises(ValueError, match="no levels pair by 'auto'"):
        pair_levels(TEACHER, [], "auto")


def test_resizing_commutes_with_a_1x1_convolution_and_keeps_a_map_of_the_size() -> None:
    f = torch.randn(2, 5, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = torch.randn(3, 5, 1, 1, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    conv = torch.nn.functional.conv2d
    torch.testing.assert_close(conv(resize(f, (7, 9)), weight, bias), resize(conv(f, weight, bias), (7, 9)))
    assert resize(f, (16, 24)) is f


def test_labels_take_the_first_pixel_of_a_cell_or_only_cells_of_one_label() -> None:
    labels = torch.tensor([[[0, 0, 1, 2], [0, 0, 1, 1], [IGNORE, IGNORE, 2, 2], [IGNORE, 0, 2, 2]]])
    assert labels_on_grid(labels, (2, 2)).tolist() == [[[0, 1], [IGNORE, 2]]]
    assert labels_on_grid(labels, (2, 2), pure=True).tolist() == [[[0, IGNORE], [IGNORE, 2]]]
