"""Types of the flows' parameters: Prefect draws its forms from their schemas and checks runs by them before queueing.

Schemas are stored on the server when a flow is deployed: deploy again to offer files that are new.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin

from annotated_types import BaseMetadata
from prefect.runtime import flow_run
from pydantic import MISSING, BaseModel, Field, RootModel, TypeAdapter, WithJsonSchema
from pydantic.fields import FieldInfo

from pipeline.cache.config import CacheConfig
from pipeline.config import FILES, ConfigError, as_overrides, read_yaml
from pipeline.experiments.compare_config import CompareConfig
from pipeline.training.config import TrainConfig

PLACES = ("*.yaml", "configs/**/*.yaml", "my/**/*.yaml")  # where configurations are looked for
NUMBERS = (int, float, bool)
NAME_LENGTH = 100  # of a run's name
Schema = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


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
    """An object whose keys are settings written with dots; first parts and plain numbers are checked.

    The form would draw a field for each of ``properties``; of an object with patterns it draws one box, for JSON. An
    unknown setting is answered with the list of the known ones, an unknown first part with the pattern, which has
    spaces (?x), at which the page breaks its lines.
    """
    names = list(model.model_fields)
    dotted = {"pattern": rf"(?x) ^( {' | '.join(names)} )\..+$"}
    checked = {name: number for name, field in leaves(model) if (number := number_schema(field))}
    return {
        "type": "object",
        "propertyNames": {"if": {"pattern": r"\."}, "then": dotted, "else": {"enum": names}},
        "patternProperties": {f"^{re.escape(name)}$": number for name, number in checked.items()},
    }


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
Count = Annotated[int | None, Field(ge=1), WithJsonSchema({"type": "integer", "minimum": 1})]
Seed = Annotated[int | None, Field(ge=0), WithJsonSchema({"type": "integer", "minimum": 0})]
Rate = Annotated[float | None, Field(gt=0), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Device = Annotated[str | None, WithJsonSchema({"type": "string"})]
SeedList = Annotated[
    list[Annotated[int, Field(ge=0)]] | None,
    WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 0}}),
]


def with_empty_fields(flow: Callable[P, T]) -> Callable[P, T]:
    """A flow function whose parameters with the default None are fields that may be left empty.

    Prefect's form would send a default of None as a value, and draw a switch between the type and "None" for it.
    """
    signature = inspect.signature(flow, eval_str=True)
    shown = [
        p.replace(default=MISSING, annotation=p.annotation | MISSING) if p.default is None else p
        for p in signature.parameters.values()
    ]

    @wraps(flow)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind_partial(*args, **kwargs).arguments
        return flow(**{name: value for name, value in given.items() if value is not MISSING})  # type: ignore[call-arg]

    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return run


def settings(fields: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> list[str]:
    """Settings of a form for `--set`: its filled fields, then the free overrides, which win."""
    filled = {name: value for name, value in fields.items() if value not in (None, "")}
    return as_overrides(filled | dict(overrides or {}))


def run_name() -> str:
    """Name of the flow run that starts: its file, then what was changed, e.g. `quickstart/train seed=1`."""
    parameters = dict(flow_run.parameters)
    path, overrides = Path(str(parameters.pop("config"))), parameters.pop("overrides", None)
    file = path.stem if path.parent.name in ("", "configs") else f"{path.parent.name}/{path.stem}"
    changed = {name: value for name, value in parameters.items() if value not in (None, "", MISSING)}
    changed |= overrides if isinstance(overrides, dict) else {}
    return " ".join([file, *(f"{name}={value}" for name, value in changed.items())])[:NAME_LENGTH]
