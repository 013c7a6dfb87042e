"""How a feature map is stored: one class a codec, one line in the union at the end.

A codec says which arrays hold a level, encodes one record on the CPU and decodes a batch on the training
device; ``tolerance`` is the relative error of a level that `sward verify` allows. Bytes are stored uncompressed:
a compressor costs an order of magnitude of read speed and saves 8-13 %.
"""

from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sward.contracts import Config

Shape = tuple[int, ...]


class StorageOverflow(ValueError):
    """A value does not fit the storage type."""


class FP16(Config):
    """IEEE half precision; relative error ≤ 5e-4. Values beyond ±65504 are refused."""

    kind: Literal["fp16"] = "fp16"
    tolerance: ClassVar[float] = 1e-3

    def arrays(self, level: str, shape: Shape) -> dict[str, tuple[Shape, str]]:
        """Array name -> (shape of one record, dtype) for a level of shape (C, H, W)."""
        return {level: (shape, "float16")}

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of one record's level, from (C, H, W) float32."""
        if np.abs(features).max() > np.finfo(np.float16).max:
            raise StorageOverflow(f"{level}: |{np.abs(features).max():.6g}| exceeds fp16's 65504; use codec int8")
        return {level: features.astype(np.float16)}

    def decode(self, level: str, parts: dict[str, Tensor]) -> Tensor:
        """(B, C, H, W) float32 on the device where the parts are."""
        return parts[level].float()


class Int8(Config):
    """8-bit levels between the minimum and maximum of each (record, channel); error ≤ range/510."""

    kind: Literal["int8"] = "int8"
    tolerance: ClassVar[float] = 1.5e-2

    def arrays(self, level: str, shape: Shape) -> dict[str, tuple[Shape, str]]:
        return {
            level: (shape, "uint8"),
            f"{level}_scale": (shape[:1], "float32"),
            f"{level}_offset": (shape[:1], "float32"),
        }

    def encode(self, level: str, features: np.ndarray) -> dict[str, np.ndarray]:
        low, high = features.min(axis=(1, 2)), features.max(axis=(1, 2))
        scale = np.maximum((high - low) / 255, np.finfo(np.float32).tiny).astype(np.float32)
        levels = np.rint((features - low[:, None, None]) / scale[:, None, None])
        return {
            level: np.clip(levels, 0, 255).astype(np.uint8),
            f"{level}_scale": scale,
            f"{level}_offset": low.astype(np.float32),
        }

    def decode(self, level: str, parts: dict[str, Tensor]) -> Tensor:
        scale, offset = parts[f"{level}_scale"][..., None, None], parts[f"{level}_offset"][..., None, None]
        return torch.addcmul(offset, parts[level].float(), scale)


# A new codec: its class above, its name in this union.
CodecConfig = Annotated[FP16 | Int8, Field(discriminator="kind")]
CODECS: dict[str, FP16 | Int8] = {codec().kind: codec() for codec in get_args(get_args(CodecConfig)[0])}
