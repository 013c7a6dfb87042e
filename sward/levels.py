"""Names of feature levels, and the only parser of them.

A level is named by its stride in pixels: ``s16``. Where several maps share a stride, as in a plain vision transformer,
``@`` and a block follow: ``s16@6`` is the map after the sixth block (of a pyramid, after the sixth stage). Blocks are
counted from 1. Of several teachers, a level has its teacher's name in front: ``tiny:s16``. ``deepest`` stands for the
last level of whichever teacher a configuration meets.

    >>> place("s16@6"), stride("tiny:s8"), deepest(["s4", "s16", "s8"])
    ((16, 6), 8, 's16')
"""

import re
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from typing import Annotated

from pydantic import Field

OWN = r"s[1-9]\d*(@[1-9]\d*)?"  # as a teacher names it, and its store
PATTERN = rf"([a-z][a-z0-9_]*:)?{OWN}"
DEEPEST = "deepest"
Level = Annotated[str, Field(pattern=rf"^{OWN}$")]
LevelRule = Annotated[str, Field(pattern=rf"^({DEEPEST}|{PATTERN})$")]


def place(level: str) -> tuple[int, int]:
    """Returns (stride in pixels, block) of a level; block 0: the name has none. Sorts levels from shallow to deep.

    Raises:
        ValueError: the name is not that of a level.
    """
    if not re.fullmatch(PATTERN, level):
        raise ValueError(f"{level!r} is no level; expected a stride and, of several maps, a block: s16 or s16@6")
    numbers = own_name(level)[1:].split("@")
    return int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0


def own_name(level: str) -> str:
    """Returns a level's name without its teacher's: ``s16`` of ``tiny:s16``."""
    return level.rpartition(":")[2]


def teacher_of(level: str) -> str:
    """Returns the name of a level's teacher: ``tiny`` of ``tiny:s16``; empty of the levels of a single teacher."""
    return level.rpartition(":")[0]


def stride(level: str) -> int:
    """Returns the stride of a level, in pixels."""
    return place(level)[0]


def grid_of(level: str, size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) in cells of a level's map, of a view of ``size`` (height, width) in pixels."""
    return size[0] // stride(level), size[1] // stride(level)


Zoom = Fraction | Mapping[str, Fraction]  # pixels of a teacher's view for one of the student's; of several, by name


class TeacherChannels(dict[str, int]):
    """Channels of teacher tensors by name, of a teacher that may see the view at a size of its own.

    Args:
        channels: level or head tensor -> channels, shallow to deep; of several teachers, one after the other.
        zoom: pixels of the teacher's view for one of the student's, on either axis; of several teachers, of each by its
            name.
    """

    def __init__(self, channels: Mapping[str, int], zoom: Zoom = Fraction(1)) -> None:
        super().__init__(channels)
        self.zoom = zoom

    def only(self, names: Iterable[str]) -> "TeacherChannels":
        """Returns the channels of ``names`` alone, with their zoom."""
        return TeacherChannels({name: self[name] for name in names}, self.zoom)


def zoom_of(level: str, teacher: Iterable[str]) -> Fraction:
    """Returns the zoom at a level of ``TeacherChannels``; of other collections of levels, which know none, 1."""
    zoom = teacher.zoom if isinstance(teacher, TeacherChannels) else Fraction(1)
    return zoom if isinstance(zoom, Fraction) else zoom[teacher_of(level)]


def by_teacher(teacher: Collection[str]) -> list[Collection[str]]:
    """Returns the levels of each teacher apart, of ``TeacherChannels`` with their zoom."""
    found: dict[str, list[str]] = {}
    for level in teacher:
        found.setdefault(teacher_of(level), []).append(level)
    return [teacher.only(own) if isinstance(teacher, TeacherChannels) else own for own in found.values()]


def cell_of(level: str, teacher: Iterable[str]) -> Fraction:
    """Returns the side of a cell of a teacher's map, in pixels of the student's view.

    >>> cell_of("s16", TeacherChannels({"s16": 384}, zoom=Fraction(512, 128)))
    Fraction(4, 1)
    """
    return stride(level) / zoom_of(level, teacher)


def nearest(level: str, teacher: Iterable[str], student: Iterable[str]) -> str:
    """Returns the student's level whose grid is nearest to that of the teacher's ``level``; of two, the finer one."""
    cell = cell_of(level, teacher)
    return min(sorted(student, key=place), key=lambda own: max(stride(own) / cell, cell / stride(own)))


def deepest(levels: Iterable[str]) -> str:
    """Returns the level with the largest stride; of several, the one after the most blocks."""
    return max(levels, key=place)


def of_rule(level: str, levels: Iterable[str]) -> str:
    """Returns ``level`` itself, or for ``deepest`` the deepest of ``levels``."""
    return deepest(levels) if level == DEEPEST else level


def of_stride(level: str, levels: Iterable[str]) -> str | None:
    """Returns the deepest of ``levels`` that has the stride of ``level``; None if there is none."""
    same = [name for name in levels if stride(name) == stride(level)]
    return deepest(same) if same else None
