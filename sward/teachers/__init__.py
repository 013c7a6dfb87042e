"""Tables of teachers and of their heads. Each pydantic union is the registry, the schema and the error message."""

from typing import Annotated

from pydantic import Field

from sward.teachers.head import TeacherHeadConfig
from sward.teachers.hiera import HieraConfig
from sward.teachers.resunetpp_head import ResUNetPPHeadConfig
from sward.teachers.timm_backbone import TimmConfig

TeacherConfig = Annotated[HieraConfig | TimmConfig, Field(discriminator="kind")]
HeadConfig = Annotated[TeacherHeadConfig | ResUNetPPHeadConfig, Field(discriminator="kind")]
