"""`sward plan --budget`: computes how many views fit into a number of bytes per codec, and recommends a codec.

The rule prefers views to precision, down to int8. int8 adds about 1e-4 to the KL divergence of the windowed attention,
whose own KL to uniform is about 0.4, and fp16 needs the space of twice the views. The first codec that applies wins:

1. fp16, if it holds ``ENOUGH`` views and all views that the configuration asks for;
2. int8, then int6, then int4, if it holds all views that the configuration asks for;
3. int8, then int6, then int4, if it holds any views: as many as fit.

This is a rule of thumb; only a comparison of stores with your student can decide.
"""

from dataclasses import dataclass

ENOUGH = 8  # views; if fp16 holds this many, the rule prefers its precision to more views


@dataclass(frozen=True)
class Choice:
    """Largest number of views that fits the budget with one codec.

    Attributes:
        codec: kind of the codec.
        views: views per training image; 0 if not even one fits.
        bytes: bytes of the store with that many views; 0 if none fits.
    """

    codec: str
    views: int
    bytes: int


def choices(budget: int, record_bytes: dict[str, tuple[int, int]], images: int, evaluated: int) -> list[Choice]:
    """The largest number of views per codec, in the order of ``record_bytes``.

    Args:
        budget: bytes that the store may take.
        record_bytes: codec -> bytes per (training, evaluation) record.
        images: number of training images, each with K views.
        evaluated: number of validation and test records, one per image.
    """
    found = []
    for codec, (training, evaluation) in record_bytes.items():
        fixed, view = evaluated * evaluation, max(1, images * training)
        views = max(0, (budget - fixed) // view)
        found.append(Choice(codec, views, fixed + views * view if views else 0))
    return found


def recommend(found: list[Choice], wanted: int) -> Choice | None:
    """The choice by the rule of this module, for ``wanted`` views in the configuration; None if nothing fits."""
    views = {choice.codec: choice for choice in found}
    fp16, rest = views["fp16"], [views[codec] for codec in ("int8", "int6", "int4")]
    enough = [fp16] if fp16.views >= max(ENOUGH, wanted) else []
    holding = [c for c in rest if c.views >= wanted]
    return next(iter([*enough, *holding, *(c for c in rest if c.views)]), None)
