"""Types of the flows' parameters: Prefect draws its forms from their schemas and checks runs by them before queueing.

Schemas are stored on the server when a flow is deployed: deploy again to offer files that are new.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import BaseMetadata
from prefect.runtime import flow_run
from pydantic import BaseModel, Field, RootModel, TypeAdapter, WithJsonSchema
from pydantic.fields import FieldInfo

from pipeline.cache.config import CacheConfig
from pipeline.config import FILES, ConfigError, as_overrides, read_yaml
from pipeline.experiments.compare_config import CompareConfig
from pipeline.training.config import TrainConfig

PLACES = ("*.yaml", "configs/**/*.yaml", "my/**/*.yaml")  # where configurations are looked for
NUMBERS = (int, float, bool)
NAME_LENGTH = 100  # of a run's name
Schema = dict[str, Any]


@cache
def found_files(model: str) -> list[str]:
    """Files below the working directory that look like a ``model``, relative to it."""
    keys, _ = FILES[model]
    return sorted({str(path) for pattern in PLACES for path in Path().glob(pattern) if looks_like(path, keys)})


def looks_like(path: Path, keys: set[str]) -> bool:
    try:
        return keys <= read_yaml(path).keys()
    except ConfigError:
        return False


def file_schema(model: type[BaseModel]) -> Schema:
    """A drop-down of the files found, or another file by its absolute path."""
    other = {"type": "string", "title": "another file, by its absolute path", "pattern": r"^/.+\.ya?ml$"}
    if not (found := found_files(model.__name__)):
        return other
    return {"anyOf": [{"type": "string", "title": "file of this checkout", "enum": found}, other]}


def overrides_schema(model: type[BaseModel]) -> Schema:
    """An object whose keys are settings written with dots; first parts and plain numbers are checked."""
    known = "|".join(model.model_fields)
    checked = {name: number for name, field in leaves(model) if (number := number_schema(field))}
    described = {"type": "object", "properties": checked, "patternProperties": {rf"^({known})(\..+)?$": {}}}
    return {"anyOf": [described | {"additionalProperties": False}, {"type": "null"}]}


def leaves(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Settings by their names with dots, those of nested models included, those of unions left out."""
    validated = {name for d in model.__pydantic_decorators__.field_validators.values() for name in d.info.fields}
    for name, field in model.model_fields.items():
        group = without_lists(field.annotation)
        if isinstance(group, type) and issubclass(group, BaseModel):
            yield from leaves(group, f"{before}{name}.")
        elif name not in validated:
            yield before + name, field


def without_lists(annotation: Any) -> Any:
    """The type of one group of settings where a list of such groups is allowed too; any other type as it is."""
    others = [k for k in get_args(annotation) if not (isinstance(k, type) and issubclass(k, RootModel))]
    return others[0] if len(others) == 1 < len(get_args(annotation)) else annotation


def number_schema(field: FieldInfo) -> Schema | None:
    """Type and bounds of a number, as the configuration's model states them; None for other settings."""
    is_union = get_origin(field.annotation) in (Union, UnionType)
    kinds = [
        kind for kind in (get_args(field.annotation) if is_union else [field.annotation]) if kind is not type(None)
    ]
    if not all(kind in NUMBERS for kind in kinds) or not all(isinstance(m, BaseMetadata) for m in field.metadata):
        return None
    bounds: Any = (field.annotation, *field.metadata, Field())
    return TypeAdapter(Annotated[bounds]).json_schema()


CacheFile = Annotated[Path, WithJsonSchema(file_schema(CacheConfig))]
TrainFile = Annotated[Path, WithJsonSchema(file_schema(TrainConfig))]
CompareFile = Annotated[Path, WithJsonSchema(file_schema(CompareConfig))]
CacheOverrides = Annotated[dict[str, Any] | None, WithJsonSchema(overrides_schema(CacheConfig))]
TrainOverrides = Annotated[dict[str, Any] | None, WithJsonSchema(overrides_schema(TrainConfig))]
CompareOverrides = Annotated[dict[str, Any] | None, WithJsonSchema(overrides_schema(CompareConfig))]
Count = Annotated[int, Field(ge=1)] | None
Seed = Annotated[int, Field(ge=0)] | None
Rate = Annotated[float, Field(gt=0)] | None


def settings(fields: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> list[str]:
    """Settings of a form for `--set`: its filled fields, then the free overrides, which win."""
    filled = {name: value for name, value in fields.items() if value is not None}
    return as_overrides(filled | dict(overrides or {}))


def run_name() -> str:
    """Name of the flow run that starts: its file, then what was changed, e.g. `quickstart/train seed=1`."""
    parameters = dict(flow_run.parameters)
    path, overrides = Path(str(parameters.pop("config"))), parameters.pop("overrides", None) or {}
    file = path.stem if path.parent.name in ("", "configs") else f"{path.parent.name}/{path.stem}"
    changed = {name: value for name, value in parameters.items() if value is not None} | overrides
    return " ".join([file, *(f"{name}={value}" for name, value in changed.items())])[:NAME_LENGTH]
