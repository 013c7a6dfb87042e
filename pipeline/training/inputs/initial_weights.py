"""Initial weights of a run, named by the run that trained them or by a file (`init:`), and known by their digest."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from pipeline.paths import read_path
from pipeline.weights import WeightsError, read_state
from sward.contracts import Config
from sward.digest import state_digest
from sward.students.saved import WEIGHTS


class InitConfig(Config):
    """Weights that a student starts from; a path alone is enough."""

    path: str = Field(min_length=1, description="Folder of a run, or file of weights (.safetensors, .pt).")
    digest: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Digest of the weights, filled in from the file; identifies them."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_path(cls, value: Any) -> Any:
        value = {"path": value} if isinstance(value, str) else value
        if isinstance(value, dict) and isinstance(value.get("path"), str) and value.get("digest") is None:
            return value | {"digest": state_digest(read_weights_of(value["path"]))}
        return value

    def weights(self) -> dict[str, Tensor]:
        """Tensors by name.

        Raises:
            ValueError: the file is missing, is no checkpoint, or no longer has the weights of ``digest``.
        """
        state = read_weights_of(self.path)
        if (found := state_digest(state)) != self.digest:
            raise ValueError(
                f"init: {self.path} has weights of digest {found[:12]}, expected {self.digest[:12]}: they were "
                "replaced; restore the file, or leave init.digest out to start from the new weights"
            )
        return state


def read_weights_of(path: str) -> dict[str, Tensor]:
    """Reads the student's weights from a run's folder, or from a file.

    Raises:
        ValueError: there are none, or the file holds anything else than tensors by name.
    """
    place = read_path(path)
    file = place / WEIGHTS if place.is_dir() else place
    if not file.is_file():
        raise ValueError(
            f"init: there is no file {file}; give the folder of a run (which has {WEIGHTS} after its first "
            "validation), or a file of weights"
        )
    status = file.stat()
    return dict(_read(file, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)  # a comparison reads the same file for every run
def _read(file: Path, modified: int, size: int) -> dict[str, Tensor]:
    try:
        state = read_state(file)
    except WeightsError as error:
        raise ValueError(f"init: {error}") from error
    if wrong := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"init: {file} holds more than weights (first: {wrong[0]}); give a file of tensors by name")
    return state
