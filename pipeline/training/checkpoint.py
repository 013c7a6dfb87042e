"""Checkpoints: everything a step depends on, written atomically, opened without running code."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.files import atomic


class CheckpointMismatch(ValueError):
    """A checkpoint belongs to another configuration or store."""


def save(
    path: Path,
    *,
    student: nn.Module,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    facts: dict[str, Any],
) -> None:
    """Write a checkpoint; ``facts`` (config identity, store id, best metric) must match on load.

    The learning rate, order, offsets and stream position are functions of ``step``, so the step is their state.
    """
    state = {
        "student": student.state_dict(),
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "generators": generator_states(),
        "facts": facts,
    }
    with atomic(path) as file:
        torch.save(state, file)


def load(
    path: Path, *, student: nn.Module, method: nn.Module, optimizer: torch.optim.Optimizer, expected: dict[str, Any]
) -> dict[str, Any]:
    """Restore in place; returns the facts, with the step added.

    Raises:
        CheckpointMismatch: written under another configuration or from another store.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key, value in expected.items():
        if state["facts"][key] != value:
            raise CheckpointMismatch(
                f"{path}: {key} is {state['facts'][key]}, this run has {value}; "
                "remove the run folder, or run with the configuration saved in it"
            )
    student.load_state_dict(state["student"])
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
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
