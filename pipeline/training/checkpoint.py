"""Checkpoints: everything a step depends on, written atomically, opened without running code."""

import random
from pathlib import Path
from typing import Any

import numpy as np
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
    """Torch's, CUDA's, NumPy's and Python's global generators (our own draws need none)."""
    words, position = np.random.get_state()[1:3]
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [torch.from_numpy(words.astype(np.int64)), int(position)],
        "python": [version, list(internal), gauss],
    }


def restore_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    words, position = states["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), position))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
