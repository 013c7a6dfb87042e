"""What the checks share: the device, a data set with its stores in miniature, and comparisons of runs."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import HEAD, tiny_cache, tiny_train

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train

Facts = dict[str, Any]


@dataclass
class Bench:
    """Place and device of the checks.

    Attributes:
        device: device that is checked; the CPU in the tests of the kit itself.
        folder: scratch folder.
        seconds: check -> seconds it took.
    """

    device: torch.device
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is checked."""
        return self.device.type == "cuda"

    def store(self, name: str, **changes: Any) -> CacheConfig:
        """A store in miniature, extracted at the first call; its folder is called ``name``."""
        config = tiny_cache(self.folder, store=str(self.folder / f"{name}.zarr"), **changes)
        extract(config)
        return config

    @cached_property
    def cache(self) -> CacheConfig:
        """The store of the training checks, extracted on the CPU, with the teacher's head fitted on it."""
        config = self.store("store")
        train(self.training("head", config=config).head_run())
        return config

    def training(self, name: str, config: CacheConfig | None = None, **changes: Any) -> TrainConfig:
        """A run of three steps on the CPU, with the changes given."""
        values = {"head": HEAD, "steps": 3, "checkpoint_every": 3, "signal_every": 0, "eval_every": 0, "name": name}
        return tiny_train(self.folder, self.cache if config is None else config, **values | changes)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def timed(self, call: Callable[[], Any], repeats: int = 7) -> float:
        """Median seconds of a call, after one that warms up."""
        times = []
        for _ in range(repeats + 1):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
        return sorted(times[1:])[repeats // 2]


def losses(folder: Path) -> list[float]:
    """Loss of every logged step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def same_weights(left: Path, right: Path) -> bool:
    """Whether two runs kept the same student, bit for bit."""
    a, b = (load_file(folder / "student.safetensors") for folder in (left, right))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error of the L2 norm."""
    found, expected = (x.detach().double().cpu() for x in (found, expected))
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def require(condition: bool, message: str) -> None:
    """Fails the check with a message."""
    if not condition:
        raise AssertionError(message)
