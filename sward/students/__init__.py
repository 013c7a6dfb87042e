"""The table of students. To add one: a file here with its network and config, and its config in the union.

Every student returns logits, features by level and the input of its classifier (``sward.contracts``).
"""

from typing import Annotated

import torch
from pydantic import Field

from sward import seeds
from sward.contracts import Student
from sward.students.deeplab import DeepLabV3Config, DeepLabV3PlusConfig, SMPConfig
from sward.students.resunetpp import ResUNetPPConfig
from sward.students.saved import SavedStudentError, Segmenter, load
from sward.students.unext import UNeXtConfig

StudentConfig = Annotated[
    UNeXtConfig | ResUNetPPConfig | DeepLabV3Config | DeepLabV3PlusConfig | SMPConfig,
    Field(discriminator="kind"),
]


def build_student(config: StudentConfig, num_classes: int, seed: int) -> Student:
    """The student, initialised as a function of (config, num_classes, seed) alone.

    Drawn on the CPU, so that it is the same for every device; torch's own generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seeds.torch_seed(seed, "student"))
        return config.build(num_classes)


__all__ = [
    "DeepLabV3Config",
    "DeepLabV3PlusConfig",
    "ResUNetPPConfig",
    "SMPConfig",
    "SavedStudentError",
    "Segmenter",
    "StudentConfig",
    "UNeXtConfig",
    "build_student",
    "load",
]
