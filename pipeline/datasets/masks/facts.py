"""Facts about the grey values of one mask file: small enough to be kept for every file of a set."""

from dataclasses import dataclass

import numpy as np

from pipeline.datasets.masks.values import count_values

KEPT = 1024  # distinct values kept of a file; a mask with more is no binary mask in any case
SQUARE = 3  # side of the smallest area that counts as solid: an object, not noise or a border
BAND = 12  # side for lossy files: larger than their blocks of 8, which may be flat at low quality
WHITES = (1, 255, 65535)
NEAR = 0.125  # a value within this share of the range of black or white may be noise: former JPEGs reach 1/8
REACH = 2  # pixels from a smooth border to black and to white
ELSEWHERE = 0.05  # share of the grey pixels that may lie elsewhere
SHADES = 3  # different values of a smooth border: halving a mask makes a quarter, a half and three quarters
HEAP = 0.6  # largest share of a border's pixels within an eighth of the range; a third value has more


@dataclass(frozen=True, eq=False)
class GreyFacts:
    """What is known about a file's grey values.

    Attributes:
        name: file name for messages.
        depth: bits of a value.
        lossy: saved in a format that changes values (JPEG).
        values, pixels_of: distinct values and how many pixels have each.
        solid: value -> pixels within squares of 3×3 pixels that have exactly this value.
        band: (value, pixels) of areas of 12×12 pixels that are neither black nor white; (0, 0) without any.
        border: grey pixels of smooth borders between black and white, as resizing with interpolation makes them.
    """

    name: str
    depth: int
    lossy: bool
    values: np.ndarray
    pixels_of: np.ndarray
    solid: dict[int, int]
    band: tuple[int, int]
    border: int = 0

    @property
    def counts(self) -> dict[int, int]:
        """Value -> pixels."""
        return dict(zip(self.values.tolist(), self.pixels_of.tolist(), strict=True))

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(self.pixels_of.sum())

    @property
    def maximum(self) -> int:
        """Largest value."""
        return int(self.values.max())

    def share(self, values: list[int]) -> float:
        """Share of the pixels that have one of ``values``."""
        return float(self.pixels_of[np.isin(self.values, values)].sum()) / self.pixels


def grey_facts(name: str, grey: np.ndarray, depth: int, lossy: bool) -> GreyFacts:
    """The facts about a mask's (H, W) grey values."""
    values, counts = count_values(grey)
    kept = np.sort(np.argsort(-counts, kind="stable")[:KEPT])
    kept = np.union1d(kept, [0, len(values) - 1])  # the extremes in any case
    plain = len(values) == 1 or values.tolist() == [0, 2**depth - 1]
    return GreyFacts(
        name,
        depth,
        lossy,
        values[kept].astype(np.int64),
        counts[kept].astype(np.int64),
        {} if plain else _solid(grey),
        _band(grey) if lossy and not plain else (0, 0),
        0 if plain else _border(grey),
    )


def _solid(grey: np.ndarray) -> dict[int, int]:
    """Value -> centres of 3×3 squares of this one value."""
    if min(grey.shape) < SQUARE:
        return {}
    across, down = grey[:, 1:] == grey[:, :-1], grey[1:] == grey[:-1]
    rows = across[:, 1:] & across[:, :-1]
    centres = rows[2:] & rows[1:-1] & rows[:-2] & down[1:, 1:-1] & down[:-1, 1:-1]
    inner = grey[1:-1, 1:-1][centres]
    values, counts = count_values(inner)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def _band(grey: np.ndarray) -> tuple[int, int]:
    """The median value and the size of smooth areas away from black and white; noise of a JPEG makes none."""
    from scipy import ndimage  # training imports this module without looking at masks

    if min(grey.shape) < BAND:
        return 0, 0
    low, high = ndimage.minimum_filter(grey, BAND), ndimage.maximum_filter(grey, BAND)
    inside = (low >= 10) & (high <= 245) & (high - low <= 24)  # high is never below low, so uint8 is enough
    return (int(np.median(grey[inside])), int(inside.sum())) if inside.any() else (0, 0)


def _border(grey: np.ndarray) -> int:
    """Grey pixels that lie between black and white, if interpolation can have made them and nothing else.

    All grey is at borders then, and its values differ. Noise of a JPEG reaches further; a third value between two
    others (a void border) is one value, or many close ones after a JPEG.
    """
    from scipy import ndimage

    low, high = int(grey.min()), int(grey.max())
    white = next((w for w in WHITES if high <= w), 0)
    black, bright = grey <= NEAR * white, grey >= (1 - NEAR) * white
    if low < 0 or white < 255 or (black | bright).all():
        return 0
    side = 2 * REACH + 1
    edge = ndimage.maximum_filter(black, side) & ndimage.maximum_filter(bright, side)
    mixed = (grey != low) & (grey != high)
    if (mixed & ~edge).sum() > ELSEWHERE * mixed.sum():
        return 0
    values, counts = count_values(grey[edge & ~black & ~bright])
    sums = np.cumsum(counts)
    first = np.searchsorted(values, values - NEAR * white)
    heap = max(sums - np.where(first > 0, sums[first - 1], 0), default=0)
    return int(sums[-1]) if len(values) >= SHADES and heap <= HEAP * sums[-1] else 0
