"""Shapes and dtypes of a record's stored arrays: image, label, and those of each feature level.

The store holds channels first, (3, H, W); rendering (`augmented_views.render`) gives images channels last, (H, W, 3).
"""

from pipeline.cache.format.codecs import ArraySpecs, Codec
from sward.levels import grid_of


def array_specs(
    codec: Codec, channels: dict[str, int], size: tuple[int, int], teachers: tuple[int, int] | None = None
) -> ArraySpecs:
    """Array name -> (shape of one record, dtype), for a subset with views of ``size``.

    Args:
        codec: of the feature levels.
        channels: level -> number of channels; levels are named as in `sward.levels`.
        size: (height, width) in pixels; multiples of 32.
        teachers: (height, width) at which the teacher sees them, in pixels; None: ``size``.
    """
    height, width = size
    specs: ArraySpecs = {"image": ((3, height, width), "uint8"), "label": ((height, width), "uint8")}
    for level, c in channels.items():
        specs |= codec.arrays(level, (c, *grid_of(level, teachers or size)))
    return specs
