"""Ctrl-C at any moment of a real process: one line, exit status 130, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.training.loop import train

VERBS = ("extract", "train", "compare", "copy", "repack", "verify", "plan", "predict", "evaluate", "report", "export")
MOMENTS = (0.3, 1.0, 2.0, 4.0)  # seconds from the start: before, during and after the imports


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a set, a store, a finished run and the configurations of all verbs."""
    folder = tmp_path_factory.mktemp("place")
    cache = tiny_cache(folder)
    extract(cache)
    run = train(tiny_train(folder, cache, steps=2, signal_every=0))
    other = cache.model_copy(update={"store": str(folder / "other.zarr"), "shard_records": 1})
    training = tiny_train(folder, cache, name="other", steps=40)
    compared = {
        "name": "c",
        "out": str(folder / "c"),
        "train": training,
        "methods": {"student alone": {"kind": "plain"}},
    }
    for name, config in {"cache": other, "train": training}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    compared["train"] = training.model_dump(mode="json")
    (folder / "compare.yaml").write_text(yaml.safe_dump(compared | {"seeds": [0, 1]}))
    (folder / "run").symlink_to(run)
    return folder


def arguments(place, verb):
    store, run = place / "store.zarr", place / "run"
    return {
        "extract": [place / "cache.yaml"],
        "plan": [place / "cache.yaml"],
        "train": [place / "train.yaml"],
        "compare": [place / "compare.yaml"],
        "copy": [store, place / "copy.zarr"],
        "repack": [store, place / "repacked.zarr", "--codec", "int8"],
        "verify": [store],
        "predict": [run, place / "tiny/images", "--out", place / "predicted"],
        "evaluate": [run],
        "report": [run, "--out", place / "r.html"],
        "export": [run, "--out", place / "exported"],
    }[verb]


def interrupted(place, verb, seconds):
    """(exit status, what was said) of a verb that gets Ctrl-C after so long."""
    command = [sys.executable, "-m", "pipeline.cli", verb, *map(str, arguments(place, verb))]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    time.sleep(seconds)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)[1]
    return child.returncode, said


def test_ctrl_c_waits_for_the_end_of_an_import_because_compiled_libraries_would_abort_the_process(tmp_path):
    (tmp_path / "heavy.py").write_text(
        "import time\nprint('begun', flush=True)\ntime.sleep(1)\nprint('imported', flush=True)\n"
    )
    program = """
import signal
import time

from pipeline.cli import process

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C

def main():
    try:
        import heavy

        time.sleep(60)
    except KeyboardInterrupt:
        return 130

process.main = main
process.run_process()
"""
    child = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30)[0] == "imported\n"
    assert child.returncode == 130


def test_ctrl_c_before_the_arguments_are_read_ends_with_one_line_too(tmp_path):
    program = """
import importlib
import os
import signal

from pipeline.cli import process

signal.signal(signal.SIGINT, signal.default_int_handler)
importlib.import_module("pipeline.cli.main").parser = lambda: os.kill(os.getpid(), signal.SIGINT)
process.run_process()
"""
    child = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert child.returncode == 130, child.stderr
    assert child.stderr.strip().startswith("stopped")


@pytest.mark.parametrize(
    "verb", [verb if verb == "copy" else pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS]
)
def test_ctrl_c_at_any_moment_ends_with_one_line_and_the_same_command_goes_on(place, verb):
    for seconds in MOMENTS:
        status, said = interrupted(place, verb, seconds)
        assert status in (0, 130), said  # 0 where it was done before
        assert "Traceback" not in said
        if status == 130:
            assert said.rstrip().rsplit("\n", 1)[-1].startswith("stopped")
    command = [sys.executable, "-m", "pipeline.cli", verb, *map(str, arguments(place, verb))]
    assert subprocess.run(command, cwd=place, capture_output=True).returncode == 0
