"""Codecs: how a feature level is stored. One class each, listed in the union at the end.

A codec names the arrays that hold a level, encodes one record on the CPU, and decodes a batch on the training device.
The integer codecs store *codes*: the values' positions on a uniform scale between a minimum and a maximum. Chunks are
not compressed unless the configuration asks for it (`compression.py`): compression makes reading an order of magnitude
slower and saves 8-13 %. `tests/benchmarks/codecs.py` measures bytes, error and time of each codec.
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
ArraySpecs = dict[str, tuple[Shape, str]]  # array name -> (shape of one record, dtype)


def array_bytes(shape: Shape, dtype: str) -> int:
    """Uncompressed size in bytes of one record's array."""
    return math.prod(shape) * np.dtype(dtype).itemsize


class Codec(Config):
    """Base class of codecs.

    Attributes:
        kind: name in configurations and in a store's identity.
        tolerance: relative error of a decoded level that `sward verify` allows.
        attributes: Zarr attributes that say what the bytes mean, where the dtype of the array does not.
    """

    kind: str
    tolerance: ClassVar[float]
    attributes: ClassVar[dict[str, Any]] = {}

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        """Array name -> (shape of one record, dtype) for a level of shape (C, H, W)."""
        raise NotImplementedError

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        """Encodes a level of one record, (C, H, W) float32, into its arrays by name.

        Raises:
            StorageOverflow: a value does not fit the storage type; the message names the level.
        """
        raise NotImplementedError

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Decodes a batch into (B, C, H, W) float32, (H, W) = ``size``, on the device of ``parts``."""
        raise NotImplementedError


class FP32(Codec):
    """Single precision: the teacher's output bit for bit, for comparisons with a teacher in the training loop."""

    kind: Literal["fp32"] = "fp32"
    tolerance: ClassVar[float] = 1e-4  # another thread count or batch size sums in another order

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        return {level: (shape, "float32")}

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        return {level: features.astype(np.float32)}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return parts[level]


class FP16(Codec):
    """IEEE half precision; relative error ≤ 5e-4. Values beyond ±65504 raise StorageOverflow."""

    kind: Literal["fp16"] = "fp16"
    tolerance: ClassVar[float] = 1e-3

    def arrays(self, level: str, shape: Shape) -> ArraySpecs:
        return {level: (shape, "float16")}

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        return {level: to_float16(level, features, "use codec int16 or bf16")}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return parts[level].float()


class BF16(Codec):
    """bfloat16, rounded to nearest even: relative error ≤ 4e-3, the range of float32.

    Zarr has no such type, so its bits are stored as uint16, and the array attribute ``logical_dtype`` names bfloat16.
    """

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
    """Uniform codes between minimum and maximum of each (record, channel); error ≤ range / (2 × largest code).

    Attributes:
        top: largest code.
        dtype: integer type of the codes.
    """

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
    """16-bit codes: the size of fp16 with about a quarter of its rounding error on Hiera-T; error ≤ range / 131070."""

    kind: Literal["int16"] = "int16"
    tolerance: ClassVar[float] = 5e-4
    top: ClassVar[int] = 65535
    dtype: ClassVar[str] = "uint16"


class Int8(MinMaxCodec):
    """8-bit codes; error ≤ range / 510."""

    kind: Literal["int8"] = "int8"
    tolerance: ClassVar[float] = 1.5e-2
    top: ClassVar[int] = 255
    dtype: ClassVar[str] = "uint8"


class BlockMinMaxCodec(Codec):
    """Uniform codes of few bits between minimum and maximum of each 8×8 block of a channel.

    Blocks are 4×4 or smaller where 8 does not divide the map. Scale and offset of a block are half precision. Error ≤
    range of the block / 2^(bits + 1).

    Attributes:
        bits: per code.
    """

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
        codes = np.clip(np.rint(steps), 0, top).astype(np.uint8)
        return {level: pack(codes, self.bits), f"{level}_scale": scale, f"{level}_offset": offset}

    def decode(self, level: str, parts: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        side = group_side(*size)
        scale, offset = (parts[f"{level}_{name}"].float()[..., None] for name in ("scale", "offset"))
        codes = unpack(parts[level], self.bits, side * side).float()
        return from_groups(torch.addcmul(offset, codes, scale), side)


class Int6(BlockMinMaxCodec):
    """6-bit codes: 0.81 bytes per value with 8×8 blocks, scale and offset included."""

    kind: Literal["int6"] = "int6"
    tolerance: ClassVar[float] = 3e-2
    attributes: ClassVar[dict[str, Any]] = {"packed_bits": 6, "layout": "blocks of a channel, lowest bits first"}
    bits: ClassVar[int] = 6


class Int4(BlockMinMaxCodec):
    """4-bit codes: 0.56 bytes per value with 8×8 blocks, scale and offset included."""

    kind: Literal["int4"] = "int4"
    tolerance: ClassVar[float] = 0.12
    attributes: ClassVar[dict[str, Any]] = {"packed_bits": 4, "layout": "blocks of a channel, lowest bits first"}
    bits: ClassVar[int] = 4


def to_float16(level: str, values: np.ndarray, remedy: str) -> np.ndarray:
    """Converts values to float16. Raises StorageOverflow if one lies beyond ±65504; ``remedy`` ends its message."""
    if (largest := max(values.max(), -values.min())) > np.finfo(np.float16).max:
        raise StorageOverflow(f"{level}: |{largest:.6g}| exceeds fp16's 65504; {remedy}")
    return values.astype(np.float16)


# To add a codec, write its class above and add it to this union.
CodecConfig = Annotated[FP32 | Int16 | FP16 | BF16 | Int8 | Int6 | Int4, Field(discriminator="kind")]
CODECS: dict[str, Codec] = {codec().kind: codec() for codec in get_args(get_args(CodecConfig)[0])}
