"""Order of feature maps in memory: which one is faster for a student on a device, and putting a student into it."""

import torch

from pipeline.training.trainable import TrainableConfig, is_head
from sward.contracts import Student

NO_FASTER = ("mit_", "tu-efficientvit_", "tu-mobilenetv3_")  # encoders whose steps take 1.00-1.04 of the time


def channels_last_is_faster(student: TrainableConfig, device: str) -> bool:
    """What `channels_last: auto` means in float32: channels-last order for students on a CPU that gain by it.

    On a CPU a training step takes 0.64 of the time for UNeXt, 0.74 for DeepLabV3, 0.87-0.89 for ResUNet++, DeepLabV3+
    and U-Net on ResNet-18, and 0.8-1.0 for those of `configs/students` (`tests/benchmarks/memory_format.py`), but for
    three. On GPUs float32 is not measured. Teachers' heads keep the usual order: one head serves runs in either.

    Args:
        student: what is trained.
        device: as the configuration names it; no error if this machine lacks it.
    """
    on_cpu = not torch.cuda.is_available() if device == "auto" else device.split(":")[0] == "cpu"
    return on_cpu and not is_head(student) and not getattr(student, "encoder", "").startswith(NO_FASTER)


def set_memory_format(student: Student, channels_last: bool) -> None:
    """Puts the weights into channels-last order, in place, if the run asks for it; all feature maps then follow.

    Names and values of the weights stay the same, and so do the files written. Sums are rounded differently, and
    dropout's mask is drawn in memory order, so the order is part of the run's identity.
    """
    if channels_last:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
