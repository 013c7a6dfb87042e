"""`sward plan --budget`: which codec and how many views fit into so many bytes, and which of them to take.

The rule: views before precision, down to int8. int8 adds some 1e-4 to the KL of the windowed attention, whose own KL to
uniform is about 0.4, and fp16 takes the room of twice the views. So fp16 only where it holds ``ENOUGH`` views anyway;
below int8 (int6, then int4) only where int8 does not hold the views that the configuration asks for. Where nothing
holds those, int8 with as many as fit, then int6, then int4. A rule: a comparison of stores with your student decides.
"""

from dataclasses import dataclass

ENOUGH = 8  # views; beyond, the rule prefers precision


@dataclass(frozen=True)
class Choice:
    """The largest number of views of a codec that fits; 0 where none does. ``bytes``: with that many."""

    codec: str
    views: int
    bytes: int


def choices(budget: int, record_bytes: dict[str, tuple[int, int]], images: int, evaluated: int) -> list[Choice]:
    """One for every codec, in the order given.

    Args:
        budget: bytes.
        record_bytes: codec -> bytes of a (training, evaluation) record.
        images: training images, each with K views.
        evaluated: validation and test records, with one view each.
    """
    found = []
    for codec, (training, evaluation) in record_bytes.items():
        fixed, view = evaluated * evaluation, max(1, images * training)
        views = max(0, (budget - fixed) // view)
        found.append(Choice(codec, views, fixed + views * view if views else 0))
    return found


def recommend(found: list[Choice], wanted: int) -> Choice | None:
    """By the rule above, with ``wanted`` views in the configuration; None where nothing fits."""
    views = {choice.codec: choice for choice in found}
    fp16, rest = views["fp16"], [views[codec] for codec in ("int8", "int6", "int4")]
    enough = [fp16] if fp16.views >= max(ENOUGH, wanted) else []
    holding = [c for c in rest if c.views >= wanted]
    return next(iter([*enough, *holding, *(c for c in rest if c.views)]), None)
