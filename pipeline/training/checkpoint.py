"""Checkpoints: everything a step depends on, written atomically, opened without running code."""

from copy import copy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from pipeline.files import atomic
from pipeline.training.config import TrainConfig


class CheckpointMismatch(ValueError):
    """A checkpoint belongs to another configuration or store."""


def save(path: Path, **parts: Any) -> None:
    """Write a checkpoint of the state as it is; arguments: ``snapshot``'s."""
    write(path, snapshot(**parts))


def snapshot(
    *,
    student: nn.Module,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    facts: dict[str, Any],
    mean: nn.Module | None = None,
) -> dict[str, Any]:
    """A copy of everything in host memory; ``facts`` (config identity, store id, best metric) must match on load.

    The learning rate, order, offsets and stream position are functions of ``step``, so the step is their state.
    """
    return {
        "student": copied(student.state_dict()),
        "method": copied(method.state_dict()),
        "optimizer": copied(optimizer.state_dict()),
        "step": step,
        "generators": generator_states(),
        "facts": facts,
    } | ({"mean": copied(mean.state_dict())} if mean else {})


def copied(value: Any) -> Any:
    """The same nesting of dicts and lists with every tensor copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        same = copy(value)  # a state's dict carries the versions of its modules
        same.update({key: copied(item) for key, item in value.items()})
        return same
    return [copied(item) for item in value] if isinstance(value, list) else value


def write(path: Path, state: dict[str, Any]) -> None:
    with atomic(path) as file:
        torch.save(state, file)


def load(
    path: Path,
    *,
    student: nn.Module,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    expected: dict[str, Any],
    mean: nn.Module | None = None,
) -> dict[str, Any]:
    """Restore in place; returns the facts, with the step added.

    Raises:
        CheckpointMismatch: written under another configuration, from another store, head or pre-stage.
        ValueError: the file is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run again") from error
    for key, value in expected.items():
        if (found := state["facts"].get(key)) != value:
            raise CheckpointMismatch(
                f"{path}: {key} is {found}, this run has {value}; remove {path.parent} to train it again, or "
                "run it with what it was started with (config.yaml beside it; the same store, head and pre-stage)"
            )
    student.load_state_dict(state["student"])
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    if mean and "mean" in state:
        mean.load_state_dict(state["mean"])
    restore_generators(state["generators"])
    return state["facts"] | {"step": state["step"]}


def generator_states() -> dict[str, Any]:
    """Torch's and CUDA's global generators; no other generator is used (`sward.seeds` keeps no state)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def restore_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def warm_up_file(config: TrainConfig) -> Path | None:
    """Path of the warm-up checkpoint that runs with the same warm-up share; None if there is none to share.

    Runs that differ only in what the warm-up (training on labels alone) leaves unused continue from it. It is the
    checkpoint of the run that came first, taken where the warm-up ends, so a run which continues from it equals one
    that did not, bit for bit on CPU. A run that validates within its warm-up may keep a student from it, so it does not
    share.
    """
    steps, unused = config.method.warm_up(config.steps)
    if not unused or not 0 < steps < config.steps or 0 < config.validates_every <= steps:
        return None
    fields = type(config.method).model_fields
    method = config.method.model_copy(update={name: fields[name].default for name in unused})
    neutral = config.model_copy(update={"method": method})
    return Path(config.runs) / "shared" / f"warmup-{config.method.kind}-{neutral.identity()[:10]}.ckpt"
