"""The tables of teachers and of their heads; each union is registry, schema and error message at once."""

from typing import Annotated

from pydantic import Field

from sward.teachers.head import TeacherHeadConfig
from sward.teachers.hiera import HieraConfig
from sward.teachers.resunetpp_head import ResUNetPPHeadConfig

TeacherConfig = HieraConfig  # a second teacher makes this Annotated[HieraConfig | …, Field(discriminator="kind")]
HeadConfig = Annotated[TeacherHeadConfig | ResUNetPPHeadConfig, Field(discriminator="kind")]
