"""Loads teacher checkpoints without running code from them: safetensors, or torch.load with weights_only."""

from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint_files import is_safetensors, unreadable, wrong_start
from pipeline.paths import read_path
from sward.teachers import TeacherConfig


class WeightsError(ValueError):
    """A weights file is missing or unreadable, or its digest is not the configured one."""


def load_teacher(config: TeacherConfig) -> Any:
    """Load the frozen teacher of ``config``.

    Raises:
        WeightsError: the file is missing or unreadable, the hub cannot be reached, or the weights' digest is not
            ``config.digest``.
        sward.teachers.hiera.TrunkMismatch: the weights are not of the configured architecture.
    """
    teacher = config.build(read_state(find(config.weights)))
    if config.digest not in (None, teacher.digest()):
        raise WeightsError(
            f"teacher.digest: expected {config.digest}, found {teacher.digest()} in {config.weights}; "
            "the file was changed or replaced; restore it, or set teacher.digest to that of the file you want"
        )
    return teacher


def find(weights: str) -> Path:
    """The local file of a path or of ``hub:<owner>/<repository>/<file>`` (downloaded on first use).

    Raises:
        WeightsError: there is no such file, or the hub cannot be reached.
    """
    if weights.startswith("hub:"):
        return _download(weights.removeprefix("hub:"))
    path = read_path(weights)
    if not path.is_file():
        raise WeightsError(
            f"teacher weights not found: {path}; set teacher.weights to a .pt or .safetensors file, "
            "or to hub:<owner>/<repository>/<file>"
        )
    return path


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    if name.count("/") < 2:
        raise WeightsError(f"teacher.weights: found hub:{name}; expected hub:<owner>/<repository>/<file>")
    owner, repository, file = name.split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:  # the hub's client raises a dozen unrelated classes for "not reachable"
        raise WeightsError(
            f"the hub has not given {name}: {error}; download the file elsewhere and set teacher.weights to its path"
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Read the tensors of a checkpoint: name -> tensor. Its format is recognised by its bytes, not its name.

    Raises:
        WeightsError: the file cannot be read, or holds anything else than tensors by name.
    """
    if reason := wrong_start(path):
        raise WeightsError(f"cannot read {path}: {reason}")
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        with path.open("rb") as file:  # of a path, torch would go by the name
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise classes of their own; the user needs the file's name
        raise WeightsError(f"cannot read {path}: {unreadable(path, error)}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, expected tensors by name (a state dict)")
    return state
