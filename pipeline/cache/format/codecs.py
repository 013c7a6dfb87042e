"""How a feature map is stored: one class a codec, one line in the union at the end.

A codec says which arrays hold a level, encodes one record on the CPU and decodes a batch on the training
device; ``tolerance`` is the relative error of a level that `sward verify` allows. Bytes are stored uncompressed unless
asked (`packing.py`): a compressor costs an order of magnitude of read speed and saves 8-13 %. What each costs in bytes,
error and time is measured by `tests/benchmarks/codecs.py`.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.cache.errors import StorageOverflow
from pipeline.cache.format.bit_packing import from_groups, group_side, pack, to_groups, unpack
from sward.contracts import Config

Shape = tuple[int, ...]
ArraySpecs = dict[str, tuple[Shape, str]]


def array_bytes(shape: Shape, dtype: str) -> int:
    """Of one record's array, uncompressed."""
    return math.prod(shape) * np.dtype(dtype).itemsize


class Codec(Config):
    """Base of codecs. ``attributes``: what the bytes mean, where their Zarr type does not say it."""

    kind: str
    tolerance: ClassVar[float]
    attributes: ClassVar[dict[str, Any]] = {}

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        """Array name -> (shape of one record, dtype) for a level of shape (C, H, W)."""
        raise NotImplementedError

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        """ArraySpecs of one record's level, from (C, H, W) float32.

        Raises:
            StorageOverflow: a value does not fit; names the level.
        """
        raise NotImplementedError

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """(B, C, H, W) float32 with (H, W) = ``size``, on the device where the parts are."""
        raise NotImplementedError


class FP32(Codec):
    """Single precision, what the teacher gave, bit for bit: for comparisons with a teacher in the loop."""

    kind: Literal["fp32"] = "fp32"
    tolerance: ClassVar[float] = 1e-4  # another thread count or batch sums in another order

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        return {level: (shape, "float32")}

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        return {level: features.astype(np.float32)}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return parts[level]


class FP16(Codec):
    """IEEE half precision; relative error ≤ 5e-4. Values beyond ±65504 are refused."""

    kind: Literal["fp16"] = "fp16"
    tolerance: ClassVar[float] = 1e-3

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        return {level: (shape, "float16")}

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        return {level: to_float16(level, features, "use codec int16 or bf16")}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return parts[level].float()


class BF16(Codec):
    """bfloat16, rounded to nearest even; relative error ≤ 4e-3, the range of float32. Zarr has no such type: its bits
    are stored as uint16, and the arrays say so in ``logical_dtype``."""

    kind: Literal["bf16"] = "bf16"
    tolerance: ClassVar[float] = 8e-3
    attributes: ClassVar[dict[str, Any]] = {"logical_dtype": "bfloat16"}

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        return {level: (shape, "uint16")}

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        bits = torch.from_numpy(np.ascontiguousarray(features)).to(torch.bfloat16).view(torch.uint16)
        return {level: bits.numpy()}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return parts[level].view(torch.bfloat16).float()


class MinMaxCodec(Codec):
    """Levels between the minimum and maximum of each (record, channel); error ≤ range / (2 × the largest level)."""

    top: ClassVar[int]
    dtype: ClassVar[str]

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        return {
            level: (shape, self.dtype),
            f"{level}_scale": (shape[:1], "float32"),
            f"{level}_offset": (shape[:1], "float32"),
        }

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        low, high = features.min(axis=(1, 2)), features.max(axis=(1, 2))
        scale = np.maximum((high - low) / self.top, np.finfo(np.float32).tiny).astype(np.float32)
        steps = features - low[:, None, None]
        steps /= scale[:, None, None]  # in place: fresh memory costs more than the arithmetic
        np.rint(steps, out=steps)
        return {
            level: np.clip(steps, 0, self.top, out=steps).astype(self.dtype),
            f"{level}_scale": scale,
            f"{level}_offset": low.astype(np.float32),
        }

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        scale, offset = parts[f"{level}_scale"][..., None, None], parts[f"{level}_offset"][..., None, None]
        return torch.addcmul(offset, parts[level].float(), scale)


class Int16(MinMaxCodec):
    """16-bit levels: the bytes of fp16, about a quarter of its rounding on Hiera-T; error ≤ range / 131070."""

    kind: Literal["int16"] = "int16"
    tolerance: ClassVar[float] = 5e-4
    top: ClassVar[int] = 65535
    dtype: ClassVar[str] = "uint16"


class Int8(MinMaxCodec):
    """8-bit levels; error ≤ range / 510."""

    kind: Literal["int8"] = "int8"
    tolerance: ClassVar[float] = 1.5e-2
    top: ClassVar[int] = 255
    dtype: ClassVar[str] = "uint8"


class BlockMinMaxCodec(Codec):
    """Few-bit levels between the minimum and maximum of each 8×8 block of a channel (blocks of 4×4 or less where 8 does
    not divide the map); scale and offset are half precision. Error ≤ range of the block / 2^(bits + 1)."""

    bits: ClassVar[int]

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        C, H, W = shape
        side = group_side(H, W)
        blocks = (C, H // side, W // side)
        return {
            level: ((*blocks, -(-side * side * self.bits // 8)), "uint8"),
            f"{level}_scale": (blocks, "float16"),
            f"{level}_offset": (blocks, "float16"),
        }

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        groups = to_groups(features, group_side(*features.shape[1:]))
        offset = to_float16(level, groups.min(-1), "use codec int8 or bf16")
        top, spread = 2**self.bits - 1, groups.max(-1) - offset.astype(np.float32)
        scale = to_float16(level, np.maximum(spread / top, np.finfo(np.float16).tiny), "use codec int8 or bf16")
        steps = (groups - offset.astype(np.float32)[..., None]) / scale.astype(np.float32)[..., None]
        levels = np.clip(np.rint(steps), 0, top).astype(np.uint8)
        return {level: pack(levels, self.bits), f"{level}_scale": scale, f"{level}_offset": offset}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        side = group_side(*size)
        scale, offset = (parts[f"{level}_{name}"].float()[..., None] for name in ("scale", "offset"))
        levels = unpack(parts[level], self.bits, side * side).float()
        return from_groups(torch.addcmul(offset, levels, scale), side)


class Int6(BlockMinMaxCodec):
    """6 bits: 0.81 bytes a value at 8×8 blocks."""

    kind: Literal["int6"] = "int6"
    tolerance: ClassVar[float] = 3e-2
    attributes: ClassVar[dict[str, Any]] = {"packed_bits": 6, "layout": "blocks of a channel, lowest bits first"}
    bits: ClassVar[int] = 6


class Int4(BlockMinMaxCodec):
    """4 bits: 0.56 bytes a value at 8×8 blocks."""

    kind: Literal["int4"] = "int4"
    tolerance: ClassVar[float] = 0.12
    attributes: ClassVar[dict[str, Any]] = {"packed_bits": 4, "layout": "blocks of a channel, lowest bits first"}
    bits: ClassVar[int] = 4


def to_float16(level: str, values: np.ndarray, remedy: str) -> np.ndarray:
    """The values as float16. Raises StorageOverflow beyond ±65504."""
    if (largest := max(values.max(), -values.min())) > np.finfo(np.float16).max:
        raise StorageOverflow(f"{level}: |{largest:.6g}| exceeds fp16's 65504; {remedy}")
    return values.astype(np.float16)


# A new codec: its class above, its name in this union.
CodecConfig = Annotated[FP32 | Int16 | FP16 | BF16 | Int8 | Int6 | Int4, Field(discriminator="kind")]
CODECS: dict[str, Codec] = {codec().kind: codec() for codec in get_args(get_args(CodecConfig)[0])}
