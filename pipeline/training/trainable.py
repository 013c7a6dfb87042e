"""What a run trains: a student, or the teacher's segmentation head."""

from typing import Annotated

from pydantic import Field

from pipeline.paths import read_path
from sward.contracts import Channels, Student
from sward.students import StudentConfig, build_student
from sward.students.encoders import is_file
from sward.teachers import HeadConfig
from sward.teachers.head import TeacherHeadConfig
from sward.teachers.resunetpp_head import ResUNetPPHeadConfig

TrainableConfig = Annotated[StudentConfig | HeadConfig, Field(discriminator="kind")]


def is_head(config: TrainableConfig) -> bool:
    """Tells a teacher's head (input: cached features) from a student (input: images)."""
    return isinstance(config, TeacherHeadConfig | ResUNetPPHeadConfig)


def build_trainable(config: TrainableConfig, teacher_channels: Channels, num_classes: int, seed: int) -> Student:
    """Builds a student, initialised from ``seed``, or a teacher's head, initialised from torch's global generator."""
    if isinstance(config, TeacherHeadConfig | ResUNetPPHeadConfig):
        return config.build(teacher_channels, num_classes)
    return build_student(with_local_weights(config), num_classes, seed)


def with_local_weights(config: StudentConfig) -> StudentConfig:
    """The configuration with the path of its encoder's weights on this machine; names on the hub stay."""
    named = getattr(config, "encoder_weights", None)
    return config.model_copy(update={"encoder_weights": str(read_path(named))}) if named and is_file(named) else config
