"""Table of students, and their construction from a configuration.

To add a student, write a file here with its network and its config, and add the config to the union below. Every
student returns logits, features by level and the input of its classifier (``sward.contracts``).
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
    """Builds a student whose initial weights depend on (config, num_classes, seed) alone.

    The weights are drawn on the CPU, so that they are the same for every device. torch's own generators are left
    unchanged.
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
