"""Shapes and dtypes of a record's arrays as they are stored."""

from pipeline.cache.format.codecs import ArraySpecs, Codec


def array_specs(codec: Codec, channels: dict[str, int], size: tuple[int, int]) -> ArraySpecs:
    """Array name -> (shape of one record, dtype) of a subset with views of ``size``."""
    height, width = size
    specs: ArraySpecs = {"image": ((3, height, width), "uint8"), "label": ((height, width), "uint8")}
    for level, c in channels.items():
        stride = int(level[1:])
        specs |= codec.arrays(level, (c, height // stride, width // stride))
    return specs
