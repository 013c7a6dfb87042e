"""Reads JSON documents with a checked shape: what a reader then looks up is there and of the right type.

A shape is a pydantic model that names the entries the program reads. Further entries are kept and not looked at. The
value is returned as it stands in the file, so that reading and writing it again changes nothing.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

AGAIN = "restore the file from a copy, or remove the folder {folder} and run the command that made it again"
RUN = "restore the file from a copy, or move the folder {folder} away and train the run again"


class DocumentError(ValueError):
    """A JSON document is damaged: no JSON, or not of the shape that this program writes."""


class Shape(BaseModel):
    """Base of shapes: types are taken literally (no text for a number), further entries are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)


class RunState(Shape):
    """What is updated in run.json during a run."""

    status: Literal["running", "stopped", "finished"]
    seconds: float


class Facts(RunState):
    """What run.json says of every run."""

    identity: str
    content_id: str
    store: str
    seed: int
    commit: str | None
    versions: dict[str, str]
    threads: int
    device: str = ""
    sources: dict[str, str] = {}
    test: dict[str, float | None] = {}
    subset: str = ""
    best_val: float | None = None

    @model_validator(mode="after")
    def _finished_with_results(self) -> "Facts":
        """A finished run has results."""
        if self.status == "finished" and not (self.test and self.subset and "best_val" in self.model_fields_set):
            raise ValueError("expected test, subset and best_val of a finished run")
        return self


class LogLine(Shape):
    """A line of metrics.jsonl."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)
    step: int


class PerImage(Shape):
    """Metrics of one image."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)
    id: str
    group: str = ""


class Evaluation(Shape):
    """Contents of evaluation.json."""

    subset: str
    metrics: dict[str, float | None] = Field(min_length=1)
    per_image: list[PerImage] = Field(min_length=1)


class ExternalEvaluation(Shape):
    """Contents of external-NAME.json."""

    metrics: dict[str, float | None] = Field(min_length=1)
    per_image: list[PerImage] = []


class StudentCard(Shape):
    """What is read of student.json beside the network (sward.students.saved checks the rest)."""

    student: dict[str, Any]
    classes: list[str] = Field(min_length=1, max_length=255)
    size: tuple[int, int] = Field(strict=False)
    mean: tuple[float, float, float] = Field(strict=False)
    std: tuple[float, float, float] = Field(strict=False)


class Digest(Shape):
    """What is read of prestage.json."""

    digest: str


class _Part(Shape):
    part: str
    ms: float
    share: float


class _Occasion(Shape):
    calls: int
    ms_a_call: float


class Parts(Shape):
    """What a report reads of profile.json."""

    undisturbed_ms: float
    parts: list[_Part]


class Profile(Parts):
    """What the terminal shows of profile.json."""

    first_step: int
    steps: int
    device: str
    threads: int
    measured_ms: float
    now_and_then: dict[str, _Occasion]


class _MeanSd(Shape):
    mean: float | None
    sd: float | None


class _RunOfRow(Shape):
    folder: str
    identity: str = ""


class _ComparedRow(Shape):
    label: str
    baseline: str | None
    student: str
    method: str
    steps: int
    batch_size: int
    seeds: list[int]
    metrics: dict[str, _MeanSd]
    difference: dict[str, Any] | None
    parameters: int
    adapter_parameters: int
    runs: list[_RunOfRow]


class Comparison(Shape):
    """What is read of comparison.json."""

    name: str
    content_id: str
    data: str
    subset: str
    images: int
    classes: list[str]
    headline: Literal["dice", "iou", "miou", "macc"]
    commits: list[str]
    versions: dict[str, str]
    threads: int
    rows: list[_ComparedRow] = Field(min_length=1)


def read_document(path: Path, shape: type[BaseModel], remedy: str = AGAIN) -> dict[str, Any]:
    """Reads a JSON document and checks its shape.

    Args:
        path: the file.
        shape: model of the entries that are read.
        remedy: what to do if the file is damaged; ``{folder}`` becomes the file's folder.

    Raises:
        DocumentError: the file is no JSON, or of another shape; names file, entry and remedy.
    """
    return checked(path.read_bytes(), shape, str(path), remedy.format(folder=path.parent))


def checked(text: bytes, shape: type[BaseModel], name: str, remedy: str) -> dict[str, Any]:
    """The value of a JSON text, if it has the shape; ``name`` is where the text was found."""
    try:
        value = json.loads(text)
        shape.model_validate(value)
    except ValidationError as error:
        raise DocumentError(f"{name} is damaged: {mistakes(error)}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{name} is damaged (not JSON: {reason(error)}); {remedy}") from error
    return value


def mistakes(error: ValidationError) -> str:
    """The first mistakes of a document, each with its place: found and expected."""
    lines = []
    for mistake in error.errors()[:3]:
        place = ".".join(map(str, mistake["loc"])) or "the whole file"
        found = "" if mistake["type"] == "missing" else f", found {mistake['input']!r:.60}"
        lines.append(f"{place}: {mistake['msg']}{found}")
    more = len(error.errors()) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")


def reason(error: Exception) -> str:
    """Why a text is not JSON, in words for people."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, in order; a last line that a kill left incomplete is left out.

    Raises:
        DocumentError: another line is damaged; names file, line and remedy.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    if lines and not lines[-1].rstrip().endswith(b"}"):  # nothing, after the newline of a whole last line
        lines = lines[:-1]
    remedy = f"restore {path} from a copy, or delete this line (the run's curves then lack it)"
    return [
        checked(line, LogLine, f"{path}, line {number},", remedy)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
