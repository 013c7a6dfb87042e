"""The table of teachers: one line each; the union is registry, schema and error message at once."""

from sward.teachers.hiera import HieraConfig

TeacherConfig = HieraConfig  # a second teacher makes this Annotated[HieraConfig | …, Field(discriminator="kind")]
