"""Whatever writes files, in miniature, killed at random moments: stores, runs, comparisons and exports alike."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults import CONTEXT, appending, cache, copying, extraction, head_run, readable, repacking
from tiny import HEAD, tiny_train, tree

from pipeline.cache.errors import StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.prune import prune
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.export import export as exports
from pipeline.export import speed
from pipeline.export.graph import Graph
from pipeline.training import validation
from pipeline.training.loop import train
from sward.students import load

STORES = ("store.zarr", "out.zarr")
TIMED = ("seconds", "cost", "speeds", "commit")  # keys of JSON files: times, and a checkout that changes meanwhile
LONGEST = 1800  # seconds that an uninterrupted command may take: a free machine needs a few
UNIMPORTANT = (".lock", "timing.jsonl")


def pruning(place: Path) -> None:
    prune(place / "store.zarr", remove=True)


def fitting(place: Path) -> None:
    train(head_run(place))


def finishing(place: Path) -> None:
    train(finished_soon(place))


def comparing(place: Path) -> None:
    training = tiny_train(place, cache(place), steps=2, batch_size=2, checkpoint_every=1, signal_every=0)
    values: dict[str, Any] = {
        "name": "tiny",
        "out": str(place / "comparisons"),
        "train": training,
        "methods": {"student alone": {"kind": "plain"}},
        "seeds": [0, 1],
        "teacher": {"steps": 1, "head": HEAD["network"]},
    }
    compare(CompareConfig.model_validate(values))


def exporting(place: Path) -> None:
    speed.SECONDS = 0.0  # one pass an engine: the figures are not looked at
    exports.trace = lambda *_: traced(place)
    if not (place / "exported").exists():  # published whole before the kill, and never overwritten: compared as it is
        exports.export(finished_soon(place).folder, place / "exported", ["torch-export"])


def trace_once(place: Path) -> None:
    """Traces the student of ``exporting``: half a minute of processor time in which no file is written.

    ONNX would take as long again, and is written and published by the same lines.
    """
    run = finished_soon(place).folder
    graph = exports.trace(load(run).network, (64, 64))
    torch.export.save(graph.program, place / "traced.pt2")
    (place / "traced.json").write_text(json.dumps([graph.size, graph.multiple, graph.limits]))


def traced(place: Path) -> Graph:
    """What ``trace_once`` found."""
    size, multiple, limits = json.loads((place / "traced.json").read_text())
    return Graph(torch.export.load(place / "traced.pt2"), tuple(size), multiple, limits)


def finished_soon(place: Path) -> Any:
    return tiny_train(place, cache(place), steps=2, batch_size=2, checkpoint_every=1, signal_every=0)


EVERY = (extraction, appending, repacking, pruning, copying, comparing, fitting, exporting, finishing)
COMMANDS: dict[str, Callable[[Path], None]] = {function.__name__: function for function in EVERY}


def prepare(name: str, place: Path) -> None:
    """All that the command starts from."""
    if name == "extraction":
        cache(place)
        return
    extract(cache(place))
    if name == "copying":
        extract(cache(place, views=2))
    if name == "appending":
        train(head_run(place))
    if name == "pruning":
        leave_behind(place / "store.zarr")
    if name == "exporting":
        train(finished_soon(place))
        trace_once(place)


def leave_behind(store: Path) -> None:
    """Files as killed processes leave them."""
    for number in range(1000):
        for left in (f"tmp/train-{number:05d}/s4", f"receipts/.train-{number:05d}.json.0123456789abcdef.partial"):
            (store / left).parent.mkdir(parents=True, exist_ok=True)
            (store / left).write_bytes(b"half")


def killed_in_its_last_validation(place: Path) -> None:
    """Body of a child: a training of which only the end is left to do."""
    torch.set_num_threads(1)
    validation.evaluate = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    finishing(place)


def run_command(name: str, place: Path, begun: Any, ended: Any) -> None:
    """Body of a child: runs the command, and says when."""
    torch.set_num_threads(1)
    begun.set()
    COMMANDS[name](place)
    ended.set()


class Killed:
    """A folder in which a command is killed again and again, beside the files that it leaves uninterrupted."""

    def __init__(self, place: Path, name: str) -> None:
        self.place, self.name = place, name
        place.mkdir(parents=True, exist_ok=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        prepare(name, place)
        torch.set_num_threads(threads)
        if name == "finishing":
            child = CONTEXT.Process(target=killed_in_its_last_validation, args=(place,))
            child.start()
            child.join()
            assert child.exitcode == -signal.SIGKILL
        self.kept = place.with_name(f"{place.name}-before")
        shutil.copytree(place, self.kept, symlinks=True)
        self.seconds = 0.0
        assert not self.dies(LONGEST)
        self.whole, self.right = files(place), records(place)
        self.reset()

    def reset(self) -> None:
        """As before the command."""
        shutil.rmtree(self.place)
        shutil.copytree(self.kept, self.place, symlinks=True)

    def dies(self, seconds: float) -> bool:
        """Whether a child was killed so long after it began; otherwise it finished."""
        begun, ended = CONTEXT.Event(), CONTEXT.Event()
        child = CONTEXT.Process(target=run_command, args=(self.name, self.place, begun, ended))
        child.start()
        assert begun.wait(LONGEST)
        began = time.monotonic()
        while child.is_alive() and (left := began + seconds - time.monotonic()) > 0:
            if ended.wait(min(0.1, left)):
                break
        if ended.is_set():
            self.seconds = self.seconds or time.monotonic() - began  # of the first, which nothing interrupts
        elif child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
        return child.exitcode != 0

    def round(self, rng: np.random.Generator, kills: int) -> int:
        """Kills the command and those that continue it, up to ``kills`` times, then lets it end; returns the kills."""
        done = 0
        while done < kills and self.dies(float(rng.uniform(0, self.seconds))):
            done += 1
            self.check_what_is_left()
        assert not self.dies(LONGEST)
        made = files(self.place)
        other = [name for name in made.keys() | self.whole.keys() if made.get(name) != self.whole.get(name)]
        assert not other, other
        self.reset()
        return done

    def check_what_is_left(self) -> None:
        """Whatever can be read of a store is right, and of what the command started from nothing is lost."""
        before = records(self.kept)
        found = records(self.place)
        assert found.items() <= self.right.items()
        assert before.items() <= found.items()


def records(place: Path) -> dict[tuple[str, ...], bytes]:
    """All that can be read of the stores of a folder: (store, subset, record, array) -> bytes."""
    found: dict[tuple[str, ...], bytes] = {}
    for name in STORES:
        try:
            found |= {(name, *key): value for key, value in readable(Store(place / name, True)).items()}
        except (FileNotFoundError, StoreIncomplete):
            continue
    return found


def files(place: Path) -> dict[str, Any]:
    """Every file, without times: not the locks, nor TensorBoard's files, whose records have the hour."""
    found = {name: data for name, data in tree(place).items() if name.rsplit("/", 1)[-1] not in UNIMPORTANT}
    return {name: without_times(name, data) for name, data in found.items() if "tensorboard" not in name}


def without_times(name: str, data: bytes) -> Any:
    """A file's content without times; of texts that print them, all but digits and the width of columns.

    ``*.json`` has the exact ones.
    """
    if name.endswith(".json") and not name.startswith(STORES):
        return dropped(json.loads(data))
    if name.endswith((".csv", ".md", ".html")):
        return re.sub(rb" +|-{2,}", b" ", re.sub(rb"[\d.,]+( |e-\d+)?", b"#", data))
    return data


def dropped(value: Any) -> Any:
    """A JSON value without the keys of times."""
    if isinstance(value, dict):
        return {key: dropped(item) for key, item in value.items() if key not in TIMED}
    return [dropped(item) for item in value] if isinstance(value, list) else value
