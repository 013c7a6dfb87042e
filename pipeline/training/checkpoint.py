"""Checkpoints: all state that a training step depends on; written atomically, loaded without executing code."""

from copy import copy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn
from torch.amp import GradScaler

from pipeline.files import atomic, os_errors_first
from pipeline.paths import expand
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import in_the_form_of


class CheckpointMismatch(ValueError):
    """A checkpoint or finished run belongs to another configuration, store, head or pre-stage."""


def save(path: Path, **parts: Any) -> None:
    """Writes a checkpoint of the present state; takes the arguments of ``snapshot``."""
    write(path, snapshot(**parts))


def snapshot(
    *,
    student: nn.Module,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    facts: dict[str, Any],
    mean: nn.Module | None = None,
    scaler: GradScaler | None = None,
) -> dict[str, Any]:
    """Copies all state to host memory.

    Learning rate, record order, window offsets and stream position are functions of ``step``, so the step is their
    state.

    Args:
        student: the student.
        method: the objective, with the method's adapters and buffers.
        optimizer: the optimiser.
        step: number of steps done.
        facts: identity of the inputs (configuration, store, sources), which must match on loading, and the best metric.
        mean: running mean of the student's weights, if there is one.
        scaler: loss scaler of a run in float16.
    """
    return {
        "student": copied(student.state_dict()),
        "method": copied(method.state_dict()),
        "optimizer": copied(optimizer.state_dict()),
        "step": step,
        "generators": generator_states(),
        "facts": facts,
    } | {name: copied(part.state_dict()) for name, part in (("mean", mean), ("scaler", scaler)) if part}


def copied(value: Any) -> Any:
    """Copies nested dicts and lists, with every tensor on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        same = copy(value)  # keeps the attribute `_metadata`: versions of the modules
        same.update({key: copied(item) for key, item in value.items()})
        return same
    return [copied(item) for item in value] if isinstance(value, list) else value


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes a snapshot atomically: the file appears under its name when it is complete."""
    with atomic(path) as file, os_errors_first(file) as guarded:  # torch's zip writer hides "disk full"
        torch.save(state, guarded)


def load(
    path: Path,
    *,
    student: nn.Module,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    expected: dict[str, Any],
    mean: nn.Module | None = None,
    scaler: GradScaler | None = None,
) -> dict[str, Any]:
    """Restores student, method, optimiser and random generators in place; returns the facts, with the step added.

    Raises:
        CheckpointMismatch: the checkpoint is of another configuration, store, head or pre-stage than ``expected``.
        ValueError: the file is damaged.
    """
    state = read(path)
    for key, value in expected.items():
        if (found := state["facts"].get(key)) != value:
            raise CheckpointMismatch(
                f"{path}: {key} is {found}, this run has {value}; remove {path.parent} to train from scratch, or "
                f"resume with the original config ({path.parent / 'config.yaml'}), store, head and pre-stage"
            )
    student.load_state_dict(state["student"])
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(in_the_form_of(optimizer, state["optimizer"]))
    for name, part in (("mean", mean), ("scaler", scaler)):
        if part and name in state:
            part.load_state_dict(state[name])
    restore_generators(state["generators"])
    return state["facts"] | {"step": state["step"]}


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint after comparing all its bytes with the checksums in it, which torch writes but ignores.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with ZipFile(path) as records:
            changed = records.testzip()
        if changed is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except (BadZipFile, RuntimeError, EOFError, UnpicklingError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run the same command again") from error
    raise ValueError(
        f"{path} is damaged (the checksum of {changed} in it is another); remove it and run the same command again"
    )


def generator_states() -> dict[str, Any]:
    """States of torch's global generators, CPU and CUDA; there are no others (`sward.seeds` keeps no state)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def restore_generators(states: dict[str, Any]) -> None:
    """Sets torch's global generators, of as many GPUs as there are here."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def warm_up_file(config: TrainConfig) -> Path | None:
    """Path of the warm-up checkpoint that runs with the same warm-up share; None if there is none to share.

    A warm-up trains on labels alone. Runs that differ only in options it does not use continue from one checkpoint:
    the first such run writes it at the end of its warm-up. A run that continues from it equals one that did not, bit
    for bit on CPU. A run that validates within its warm-up does not share, because it may keep a student from there.
    """
    steps, unused = config.method.warm_up(config.steps)
    if not unused or not 0 < steps < config.steps or 0 < config.validates_every <= steps:
        return None
    fields = type(config.method).model_fields
    method = config.method.model_copy(update={name: fields[name].default for name in unused})
    neutral = config.model_copy(update={"method": method})
    return Path(expand(config.runs)) / "shared" / f"warmup-{config.method.kind}-{neutral.identity()[:10]}.ckpt"
