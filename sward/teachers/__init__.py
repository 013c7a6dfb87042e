"""Tables of teachers and of their heads. Each pydantic union is the registry, the schema and the error message."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sward.teachers.head import TeacherHeadConfig
from sward.teachers.hiera import HieraConfig
from sward.teachers.resunetpp_head import ResUNetPPHeadConfig
from sward.teachers.timm_backbone import TimmConfig


def hiera_unless_told(values: Any) -> Any:
    """Adds ``kind: hiera``, the only one at first, to a teacher that states none."""
    return {"kind": "hiera", **values} if isinstance(values, dict) else values


TeacherConfig = Annotated[HieraConfig | TimmConfig, Field(discriminator="kind"), BeforeValidator(hiera_unless_told)]
HeadConfig = Annotated[TeacherHeadConfig | ResUNetPPHeadConfig, Field(discriminator="kind")]
