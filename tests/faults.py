"""What writes a store, each in miniature, and how to interrupt it: at every boundary, at any instant."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tiny import HEAD, tiny_cache, tiny_dataset, tiny_train, tiny_weights, tree

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.format.shards import ShardWriter
from pipeline.cache.store import Store
from pipeline.cache.tools.copy import copy
from pipeline.cache.tools.repack import repack
from pipeline.training.loop import train
from pipeline.training.teacher.append import append

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of this process would inherit its threads
CONTEXT.set_forkserver_preload(  # modules of tests/ are not found there yet
    [
        "pipeline.cache.tools.repack",
        "pipeline.cache.tools.verify",
        "pipeline.training.loop",
        "sam2.modeling.backbones.hieradet",
    ]
)
BOUNDARIES = ((os, "fsync"), (os, "replace"), (os, "rename"))
WRITES = ((ShardWriter, "_write"),)


def cache(place: Path, views: int = 1, **changes: Any) -> CacheConfig:
    """Three training images and one of either evaluation subset, in shards of two."""
    if not (place / "tiny/card.yaml").exists():
        tiny_dataset(place / "tiny", train=3, val=1, test=1)
        tiny_weights(place / "teacher.safetensors")
    return tiny_cache(place, **{"views": {"count": views, "seed": 0}, "shard_records": 2} | changes)


def head_run(place: Path) -> Any:
    """Configuration of a teacher head on the store at ``place``."""
    return tiny_train(place, cache(place), head=HEAD | {"steps": 1}).head_run()


def extraction(place: Path) -> None:
    extract(cache(place, views=2))


def extension(place: Path) -> None:
    extract(cache(place, views=2))


def appending(place: Path) -> None:
    append(place / "store.zarr", ("logits",), head_run(place).folder, device="cpu")


def repacking(place: Path) -> None:
    repack(place / "store.zarr", place / "out.zarr", codec="int8", shard_records=3)


def copying(place: Path) -> None:
    copy(place / "store.zarr", place / "out.zarr")


OPERATIONS: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (extraction, extension, appending, repacking, copying)
}


class Scene:
    """A folder in which an operation can be run, interrupted and run again, and the store of an uninterrupted run."""

    def __init__(self, place: Path, name: str) -> None:
        self.place, self.name, self.call = place, name, OPERATIONS[name]
        place.mkdir(parents=True, exist_ok=True)
        cache(place)
        if name != "extraction":
            extract(cache(place))
        if name == "copying":
            extract(cache(place, views=2))
        if name == "appending":
            train(head_run(place))
        self.target = place / ("out.zarr" if name in ("repacking", "copying") else "store.zarr")
        self.base = place / "base.zarr"
        if self.target.exists():
            shutil.copytree(self.target, self.base)
        self.complete()
        self.whole, self.right = content(self.target), readable(Store(self.target))
        self.reset()

    def reset(self) -> None:
        """As before the operation."""
        shutil.rmtree(self.target, ignore_errors=True)
        if self.base.exists():
            shutil.copytree(self.base, self.target)

    def complete(self) -> None:
        """The operation here, in this process."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.call(self.place)
        torch.set_num_threads(threads)

    def dies(self, body: Callable[..., None], *args: Any) -> bool:
        """Whether a child in which ``body`` runs the operation was killed; otherwise it finished."""
        child = CONTEXT.Process(target=body, args=(self.name, self.place, *args))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
        return child.exitcode != 0

    def check(self) -> None:
        """What an interruption left is refused or right, and the same operation makes it whole, byte for byte."""
        for partial in (False, True):
            try:
                found = readable(Store(self.target, partial))
            except (FileNotFoundError, StoreIncomplete) as refusal:
                found, said = {}, str(refusal)
            else:
                said = str(self.target)
            assert found.items() <= self.right.items()
            assert str(self.target) in said
        self.complete()
        made = content(self.target)
        assert not [name for name in made.keys() | self.whole.keys() if made.get(name) != self.whole.get(name)]
        self.reset()


def content(store: Path) -> dict[str, bytes]:
    """Every file but the lock and what making it took."""
    return {name: data for name, data in tree(store).items() if name not in (".lock", "timing.jsonl")}


def readable(store: Store) -> dict[tuple[str, str, str], bytes]:
    """All that can be read: (subset, record, array) -> bytes."""
    found = {}
    for subset, records in store.records.items():
        for record in records:
            found |= {(subset, record.name, name): a.tobytes() for name, a in store.arrays(record).items()}
    return found


def killed_at_call(name: str, place: Path, number: int, calls: tuple[tuple[Any, str], ...] = BOUNDARIES) -> None:
    """Body of a child: the operation, killed right after the ``number``-th of ``calls``."""
    torch.set_num_threads(1)
    made = count(1)
    for owner, call in calls:
        setattr(owner, call, counted(getattr(owner, call), made, number))
    OPERATIONS[name](place)


def killed_at_write(name: str, place: Path, number: int) -> None:
    """Body of a child: killed right after the ``number``-th piece given to a shard, synced or not."""
    killed_at_call(name, place, number, WRITES)


def counted(usual: Callable[..., Any], made: "count[int]", number: int) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        result = usual(*args, **named)
        if next(made) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def killed_after(name: str, place: Path, seconds: float) -> None:
    """Body of a child: the operation, killed after so long."""
    torch.set_num_threads(1)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    OPERATIONS[name](place)
    timer.cancel()
