"""Decides once for a whole set which grey value of its binary masks is white, and names files that contradict it.

Values close to black or white are forgiven where saving as JPEG, or smoothing, can have made them: then there are
many different ones. Few values in solid areas are classes or void areas, and are refused.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

from pipeline.datasets.masks.facts import NEAR, SHADES, WHITES, GreyFacts

AMBIGUOUS = 0.01  # share of an image that may be neither (antialiased borders: up to 0.0004 in CVC-ClinicDB)
VARIETY = 6  # different values near black and white that show noise; labels are fewer
SOLID = 0.005  # share of solid areas that is forgiven in a set with noise (CVC-ClinicDB: 0.001)
STRAY = 16  # pixels
TINY = 2  # steps from black or white that any program may be off by
MANY = 0.2  # share of the JPEG files with grey areas that makes them a class


def decide(files: list[GreyFacts]) -> list[int | str]:
    """For each file the smallest value that is foreground, or a sentence that says why it cannot be told."""
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for k, facts in enumerate(files):
        groups[facts.depth, facts.lossy].append(k)
    found: dict[int, int | str] = {}
    for members in groups.values():
        found |= dict(zip(members, _decide_alike([files[k] for k in members]), strict=True))
    return [found[k] for k in range(len(files))]


def _decide_alike(files: list[GreyFacts]) -> list[int | str]:
    """As ``decide``, for files of one depth that are all lossy or all lossless."""
    highest, lowest = max(f.maximum for f in files), min(int(f.values.min()) for f in files)
    if lowest < 0 or highest > WHITES[-1]:
        advice = f"state encoding.foreground: {highest}" if lowest == 0 else "save them as 8-bit PNG"
        text = f"values {lowest} to {highest} in the set; expected 0 and one of 1, 255, 65535 for the object; {advice}"
        return [text] * len(files)
    ceilings = WHITES[1:] if files[0].lossy else WHITES
    common = _Common.of(files, next(c for c in ceilings if highest <= c))
    return [_mistake(f, common) or (common.white + 1) // 2 for f in files]


@dataclass(frozen=True)
class _Sides:
    """A file's values near black, in between, and near white."""

    black: list[int]
    between: list[int]
    bright: list[int]

    @classmethod
    def of(cls, facts: GreyFacts, white: int) -> "_Sides":
        values, low, high = facts.values.tolist(), NEAR * white, (1 - NEAR) * white
        return cls(
            [v for v in values if v <= low], [v for v in values if low < v < high], [v for v in values if v >= high]
        )


@dataclass(frozen=True)
class _Common:
    """What the files of a set have in common.

    Attributes:
        white: value of the object.
        noisy: there are many different values near black and white, as in former JPEGs and smooth masks.
        black: most files' background value, of those that have an object; None without such files.
        grey_areas: there are enough JPEGs with smooth grey areas for them to be a class.
    """

    white: int
    noisy: bool
    black: int | None
    grey_areas: bool

    @classmethod
    def of(cls, files: list[GreyFacts], white: int) -> "_Common":
        sides = [_Sides.of(f, white) for f in files]
        near = {v for s in sides for v in (*s.black, *s.bright)} - {0, white}
        blacks = Counter(_level(f, s.black) for f, s in zip(files, sides, strict=True) if s.bright and s.black)
        grey = sum(_has_grey_area(f) for f in files) >= MANY * len(files)
        return cls(white, len(near) >= VARIETY, blacks.most_common(1)[0][0] if blacks else None, grey)


def _mistake(facts: GreyFacts, common: _Common) -> str:
    """Why a file cannot be read with this white; empty if it can."""
    white, sides = common.white, _Sides.of(facts, common.white)
    if white == 1:
        return ""
    grey, surely = facts.share(sides.between), facts.share(sides.bright)
    unsure = grey - facts.border / facts.pixels
    if unsure > AMBIGUOUS or unsure * facts.pixels > surely * facts.pixels + STRAY:
        values = ", ".join(map(str, sides.between[:5]))
        return (
            f"{grey:.1%} of the pixels are neither 0 nor {white}, e.g. {values}; expected two values. If the mask "
            f"was resized with interpolation: encoding.threshold: {(white + 1) // 2}; if these are classes: encoding "
            "indexed or palette; if one of them is the object: encoding.foreground"
        )
    if facts.lossy:
        return _grey_area(facts) if common.grey_areas and _has_grey_area(facts) else ""
    if not sides.bright and facts.maximum > 1 and not common.noisy and _level(facts, sides.black) != common.black:
        return f"values 0 to {facts.maximum} and nothing near {white}; state encoding.foreground"
    return _third_value(facts, sides, common)


def _level(facts: GreyFacts, values: list[int]) -> int | None:
    """The most frequent of some values: the file's black or white."""
    return max(values, key=facts.counts.__getitem__) if values else None


def _third_value(facts: GreyFacts, sides: _Sides, common: _Common) -> str:
    """Why values beside the file's black and white are not noise; empty if they are, or there are none."""
    black = _level(facts, sides.black)
    if black is not None and common.black is not None and black != common.black and not common.noisy:
        return _told(facts, common, [black], f"where other files have {common.black}")
    levels = {black, _level(facts, sides.bright)}
    near = [v for v in (*sides.black, *sides.bright) if v not in levels]
    others = near + sides.between
    if not others or len(others) >= VARIETY:
        return ""
    solid = [v for v in others if facts.solid.get(v)]
    if solid and (not common.noisy or sum(facts.solid[v] for v in solid) > SOLID * facts.pixels):
        return _told(facts, common, solid, "in solid areas")
    lines = facts.share(sides.between) * facts.pixels > STRAY and len(sides.between) < SHADES
    if lines and not common.noisy:
        return _told(facts, common, sides.between, "in lines, and few other values, so that it is no smooth border")
    if common.noisy or facts.share(near) * facts.pixels <= STRAY or _is_tiny(near, facts, sides, common):
        return ""
    return _told(facts, common, near, "and few other values, so that it is no noise of a JPEG")


def _is_tiny(near: list[int], facts: GreyFacts, sides: _Sides, common: _Common) -> bool:
    """Whether values are off by a step or two, on few pixels or in a file without an object."""
    step = TINY * max(1, common.white // 255)
    few = not sides.bright or facts.share(near) <= AMBIGUOUS
    return few and all(min(v, common.white - v) <= step for v in near)


def _told(facts: GreyFacts, common: _Common, values: list[int], why: str) -> str:
    white, listed = common.white, ", ".join(f"{v} on {facts.counts[v]} pixels" for v in values[:5])
    usual = "{0: 0, 1: 1}, ignore: [255]" if values == [1] and white == 255 else "{0: 0, …: 1}, ignore: […]"
    return (
        f"holds {listed} {why}; expected only 0 and {white} in a binary mask (the set goes to {white}). If the values "
        f"are classes or void: encoding: {{kind: indexed, labels: {usual}}}; "
        f"if they are noise: encoding.threshold: {(white + 1) // 2}"
    )


def _has_grey_area(facts: GreyFacts) -> bool:
    return facts.band[1] > SOLID * facts.pixels


def _grey_area(facts: GreyFacts) -> str:
    value, pixels = facts.band
    return (
        f"has smooth areas of about {value} on {pixels} pixels, which noise of a JPEG does not make; expected two "
        "values. Export the masks again as PNG and name their values (encoding indexed), or state encoding.threshold"
    )
