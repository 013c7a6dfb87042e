"""Configuration of CIRKD's weights and queues, with the authors' values."""

from typing import Self

from pydantic import Field, model_validator

from sward.contracts import Config


class CIRKDWeights(Config):
    """Weight of every term, by its name. 0 leaves the term out, and the layers and queues that only it uses."""

    kd: float = Field(default=1.0, ge=0, description="KD on logits; absent where `level` is a trunk level.")
    pairs: float = Field(default=1.0, ge=0, description="Pixel relations between the images of the batch.")
    pixel: float = Field(default=0.1, ge=0, description="Relations to the pixel queue.")
    region: float = Field(default=0.1, ge=0, description="Relations to the region queue.")
    hint: float = Field(default=1.0, ge=0, description="v2: FitNet after a self-attention block.")
    channel_pairs: float = Field(default=1.0, ge=0, description="v2: channel relations between the batch's images.")
    channel_memory: float = Field(default=0.1, ge=0, description="v2: relations to the channel queue.")
    channel_mse: float = Field(default=100.0, ge=0, description="v2: squared difference of normalised channels.")


class CIRKDQueues(Config):
    """Sizes of the queues, and how many vectors enter them and are compared with at every step."""

    pixel: int = Field(default=20_000, ge=1, description="Vectors per class (SegFormer: 2000).")
    region: int = Field(default=2_000, ge=1, description="Vectors per class.")
    channel: int = Field(default=10_000, ge=1, description="v2: channels.")
    pixels_per_class: int = Field(default=16, ge=1, description="Pixels that enter per image and class, at most.")
    channels_per_step: int = Field(default=256, ge=1, description="v2: channels that enter per step, at most.")
    pixel_samples: int = Field(default=4096, ge=1, description="Drawn per step: this // classes + 1 of every class.")
    region_samples: int = Field(default=1024, ge=1, description="Drawn per step: this // classes + 1 of every class.")
    channel_samples: int = Field(default=2048, ge=1, description="v2: channels drawn per step.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = []
        if self.pixels_per_class > self.pixel:
            mistakes.append(f"pixels_per_class {self.pixels_per_class} does not fit a queue of pixel: {self.pixel}")
        if self.channels_per_step > self.channel:
            mistakes.append(f"channels_per_step {self.channels_per_step} does not fit one of channel: {self.channel}")
        if mistakes:
            raise ValueError("; ".join(mistakes) + ": enlarge the queue or let fewer enter")
        return self
