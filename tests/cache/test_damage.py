"""Truncated files and flipped bytes: opening or verifying names the file and the remedy, and the remedy helps."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from faults import Scene, cache, content, readable

from pipeline.cache.errors import StoreDamaged, StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify

KINDS = {
    "data": "train/s8/c/*/0/0/0",
    "image": "val/image/c/*/0/0/0",
    "full label": "full_labels/*.png",
    "appended data": "*/logits/c/*/0/0/0",
    "receipt": "receipts/*.json",
    "appended receipt": "appended/receipts/*.json",
    "plan": "plan/*.json",
    "appended plan": "appended/plan.json",
    "metadata": "**/zarr.json",
}
REMEDIES = ("delete ", "restore it ", "writes it anew", "sward repack")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A store with appended logits, which the same command can make again."""
    made = Scene(tmp_path_factory.mktemp("scene"), "appending")
    made.complete()
    return made


@pytest.fixture
def store(scene, tmp_path):
    return shutil.copytree(scene.target, tmp_path / "store.zarr")


def said(store: Path) -> list[str]:
    """What opening or verifying says."""
    try:
        found = verify(store, sources=False)
    except (StoreDamaged, StoreIncomplete, FileNotFoundError) as refusal:
        return [str(refusal)]
    return found.problems + found.notes


def assert_named(store: Path, file: Path, change: str) -> None:
    lines = [line for line in said(store) if str(file) in line]
    assert lines, f"{change} of {file.relative_to(store)}: not noticed"
    assert any(remedy in line for line in lines for remedy in REMEDIES), lines


def flip(file: Path, position: int, bit: int) -> bytes:
    """Change one bit; the bytes as they were."""
    data = file.read_bytes()
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    file.write_bytes(changed)
    return data


def files_of(store: Path, kind: str) -> list[Path]:
    return sorted(store.glob(KINDS[kind]))


def test_a_whole_store_is_not_complained_of(store):
    assert said(store) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_wherever_it_is(store, kind):
    rng, files = np.random.default_rng(len(kind)), files_of(store, kind)
    for _ in range(8):
        file = files[rng.integers(len(files))]
        position, bit = int(rng.integers(file.stat().st_size)), int(rng.integers(8))
        before = flip(file, position, bit)
        assert_named(store, file, f"bit {bit} of byte {position}")
        file.write_bytes(before)


@pytest.mark.parametrize("kind", ["data", "appended data"])
def test_a_flipped_bit_in_a_shards_index_is_noticed_by_verify_and_by_reading(store, kind):
    for offset in range(1, 16 * 2 + 4 + 1):
        file = files_of(store, kind)[0]
        before = flip(file, file.stat().st_size - offset, offset % 8)
        assert_named(store, file, f"byte -{offset}")
        with pytest.raises(StoreDamaged, match=rf"{file}.*does not match its checksum; .*delete the receipt"):
            readable(Store(store))
        file.write_bytes(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["receipt", "appended receipt", "plan", "appended plan", "metadata"])
def test_a_flipped_bit_in_any_byte_of_what_describes_a_store_is_noticed(store, kind):
    rng = np.random.default_rng(0)
    smallest = min(files_of(store, kind), key=lambda file: file.stat().st_size)
    for position in range(smallest.stat().st_size):
        bit = int(rng.integers(8))
        before = flip(smallest, position, bit)
        assert_named(store, smallest, f"bit {bit} of byte {position}")
        smallest.write_bytes(before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_or_lengthened_file_is_noticed(store, kind):
    file = files_of(store, kind)[-1]
    data = file.read_bytes()
    for changed in (b"", data[: len(data) // 2], data[:-1], data + b"x"):
        file.write_bytes(changed)
        assert_named(store, file, f"{len(changed)} bytes instead of {len(data)}")
    file.write_bytes(data)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "plan"])
def test_following_the_remedy_gives_the_same_bytes_back(scene, kind):
    """A damaged plan is not among them: it is restored from a copy."""
    whole = content(scene.target)
    file = files_of(scene.target, kind)[0]
    flip(file, file.stat().st_size // 2, 0)
    (line,) = [line for line in said(scene.target) if str(file) in line]
    if named := re.search(r"delete (\S+?),? ", line):
        (file if named[1] == "it" else Path(named[1])).unlink()
    extract(cache(scene.place))
    scene.complete()
    assert content(scene.target) == whole
    assert said(scene.target) == []
