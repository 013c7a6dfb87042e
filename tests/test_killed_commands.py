"""A hundred kills over every command that writes: nothing is lost, nothing is wrong, the same files at the end."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from killed_commands import COMMANDS, Killed

KILLS = {"extraction": 14, "appending": 12, "repacking": 14, "pruning": 14, "copying": 14, "comparing": 6,
         "fitting": 10, "exporting": 6, "finishing": 10}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """A folder, in memory where that is possible, for the syncs' sake."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def killed(place, name, wanted):
    """Kills a command so often, at moments drawn from a fixed seed; returns the kills."""
    scene, rng, kills = Killed(place / name, name), np.random.default_rng(len(name)), 0
    while kills < wanted:
        kills += scene.round(rng, min(int(rng.integers(1, 4)), wanted - kills))
    return kills


@pytest.mark.parametrize("name", ["pruning", "finishing"])
def test_a_command_killed_at_random_moments_ends_with_the_files_of_an_uninterrupted_one(place, name):
    assert killed(place, name, 2) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes on a free machine; it may be a busy one
@pytest.mark.parametrize("name", COMMANDS)
def test_a_hundred_kills_over_all_commands_change_no_byte_of_what_they_make(place, name):
    assert sum(KILLS.values()) == 100
    assert killed(place, name, KILLS[name]) == KILLS[name]
