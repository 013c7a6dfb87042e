"""Files damaged at random, from a fixed seed: each is read, or refused by a documented error, in time and memory."""

import json
import resource
import shutil
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import tiny_train

from pipeline.cache.config import CacheConfig
from pipeline.config import load_config
from pipeline.datasets.card import read_card
from pipeline.results.runs import load_run
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.weights import read_state
from sward.students import load

EXPECTED = (ValueError, OSError)  # bases of every documented error of these readers
SECONDS, GIGABYTES = 10, 2
VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    "",
    "x" * 10_000,
    "\0\x1b[2J",
    "=1+1",
    [],
    [[]],
    {},
    {"a": {}},
]
PIECES = [b"\0", b"\xff\xfe", b"\n", b"{", b"]", b"&a ", b"*a", b"\x1b[2J", b"- ", b": ", b'"', b"9" * 400, b"[" * 2000]


class Damage:
    """Draws one change of a file; the same number gives the same change."""

    def __init__(self, number):
        self.draw = np.random.Generator(np.random.Philox(key=number))

    def one_of(self, choices):
        return choices[int(self.draw.integers(len(choices)))]

    def bytes(self, content):
        """Bytes changed, cut, doubled or put in."""
        at, end = sorted(int(i) for i in self.draw.integers(0, len(content) + 1, 2))
        end = min(end, at + self.one_of([1, 8, 1 << 20]))
        piece = self.one_of([*PIECES, b"", content[at:end] * 2, self.draw.bytes(4)])
        return content[:at] + piece + content[end:] if self.draw.random() < 0.9 else content[:at]

    def tree(self, value):
        """One entry of nested lists and dicts replaced, removed or renamed."""
        places = list(walk(value))
        holder, key = self.one_of(places)
        action = self.draw.random()
        if action < 0.6:
            holder[key] = self.one_of(VALUES)
        elif action < 0.8:
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(self.one_of(["x", "kind", "id", key]))] = holder.pop(key)
        else:
            holder.append(holder[key])
        return value


def walk(value):
    """Every (holder, key) within nested lists and dicts."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list) and inner:
            yield from walk(inner)


def damaged(content, number, parse=None, write=None):
    """The content after one to three changes; of its values every second time, where it can be parsed."""
    damage = Damage(number)
    for _ in range(1 + number % 3):
        if parse and number % 2:
            try:
                content = write(damage.tree(parse(content))).encode("utf-8", "surrogatepass")
                continue
            except (ValueError, IndexError, yaml.YAMLError, AttributeError, TypeError):
                pass  # no longer a tree
        content = damage.bytes(content)
    return content


YAML = {"parse": yaml.safe_load, "write": lambda value: yaml.safe_dump(value, allow_unicode=True)}
JSON = {"parse": json.loads, "write": json.dumps}


@pytest.fixture(scope="module")
def subjects(cache, tmp_path_factory):
    """Kind of file -> (file to damage, how it is parsed and written, its reader)."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = tiny_train(folder, cache, steps=2, signal_every=0)
    run = train(config)
    (folder / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "cache.yaml").write_text(yaml.safe_dump(cache.model_dump(mode="json")))
    shutil.copy(cache.dataset, folder / "card.yaml")
    shutil.copy(cache.teacher.weights, folder / "teacher.safetensors")
    torch.save({"model": load_file(folder / "teacher.safetensors")}, folder / "teacher.pt")
    lines = {"parse": lambda text: [json.loads(x) for x in text.splitlines()]}
    lines["write"] = lambda value: "\n".join(map(json.dumps, value)) + "\n"
    return {
        "card": (folder / "card.yaml", YAML, lambda: read_card(str(folder / "card.yaml"))),
        "training config": (folder / "train.yaml", YAML, lambda: load_config(TrainConfig, folder / "train.yaml")),
        "cache config": (folder / "cache.yaml", YAML, lambda: load_config(CacheConfig, folder / "cache.yaml")),
        "safetensors": (folder / "teacher.safetensors", {}, lambda: read_state(folder / "teacher.safetensors")),
        "checkpoint": (folder / "teacher.pt", {}, lambda: read_state(folder / "teacher.pt")),
        "run.json": (run / "run.json", JSON, lambda: load_run(run)),
        "evaluation.json": (run / "evaluation.json", JSON, lambda: load_run(run)),
        "metrics.jsonl": (run / "metrics.jsonl", lines, lambda: load_run(run)),
        "config.yaml": (run / "config.yaml", YAML, lambda: load_run(run)),
        "student.json": (run / "student.json", JSON, lambda: load(run)),
        "student.safetensors": (run / "student.safetensors", {}, lambda: load(run)),
    }


KINDS = ["card", "training config", "cache config", "safetensors", "checkpoint", "run.json", "evaluation.json"]
KINDS += ["metrics.jsonl", "config.yaml", "student.json", "student.safetensors"]


def read_all(subjects, kind, numbers):
    file, form, reader = subjects[kind]
    whole = file.read_bytes()
    try:
        for number in numbers:
            file.write_bytes(damaged(whole, number, **form))
            began = time.process_time()  # of this process: other programs may keep the machine busy
            try:
                reader()
                said = "read"
            except EXPECTED as error:
                said = str(error)
            except Exception as error:
                raise AssertionError(f"{kind}, input {number}: {type(error).__name__}: {error!s:.300}") from error
            assert said, f"{kind}, input {number}: an error without a text"
            assert time.process_time() - began < SECONDS, f"{kind} {number}"
    finally:
        file.write_bytes(whole)
    reader()


@pytest.mark.filterwarnings("ignore")  # torch and yaml warn about some of the inputs
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused(subjects, kind):
    read_all(subjects, kind, range(20))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_damaged_files_are_read_or_refused(subjects, kind):
    read_all(subjects, kind, range(1000, 1000 + -(-2000 // len(KINDS))))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < GIGABYTES << 20  # kB
