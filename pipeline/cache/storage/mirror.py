"""A store at a URL and the local folder that stands for it.

The folder holds what is small: plans, receipts, Zarr metadata, full labels, timing, pulled on opening and when what is
there has changed. Everything that works on a store works on this folder; the shards' bytes stay where they are and
come by range (`ranges.py`). A writer computes a unit in a folder of its own, uploads the unit's files, and puts the
receipt last, on condition that there is none: remote receipts alone are trusted, by readers and by a restart. There is
no lock: two writers of one configuration put the same bytes.
"""

import fcntl
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.cache.errors import CacheMismatch, RemoteError
from pipeline.cache.manifest.records import TIMING
from pipeline.cache.manifest.sealed import sealed, write_sealed
from pipeline.cache.storage.object_store import ObjectInfo, Remote, at_once
from pipeline.files import read_json, write_atomic, write_json
from pipeline.paths import URLS, with_urls

OWN = ".remote"  # folder of what is the mirror's own
COPYING = "copying.json"  # a copy that is not whole yet: no store for anybody else (`copying.py`)
TIMING_EVERY = 60.0  # seconds
FOLDERS = ("plan", "receipts", "appended", "full_labels")


class Mirror:
    """The folder ``path`` that stands for the store at ``url``."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url, self.remote = path, url, Remote(url)
        self.timed = time.monotonic()

    def pull(self) -> dict[str, ObjectInfo]:
        """Make the folder what the store's small objects are now; returns every object of the store.

        Raises:
            FileNotFoundError: there is no store yet, but a copy that was begun.
        """
        with self._alone():
            there = self.remote.objects()
            if COPYING in there:
                raise FileNotFoundError(f"no feature store at {self.url} yet: a copy to it was begun; continue it")
            wanted = {name: f for name, f in there.items() if mirrored(name)}
            known = self._known()
            for file in self._files():
                name = str(file.relative_to(self.path))
                if name not in wanted and not name.startswith("full_labels/"):  # those are named by their content
                    file.unlink(missing_ok=True)
            new = [n for n, f in wanted.items() if known.get(n) != f.tag or size_of(self.path / n) != f.bytes]
            at_once(self._fetch, new)
            write_json(self.path / OWN / "tags.json", {name: f.tag for name, f in wanted.items()})
        return there

    def push(self) -> None:
        """Put the plans that are not there yet, then Zarr metadata that differs, then what it took.

        Raises:
            CacheMismatch: another plan is there: two writers of different settings began at once.
        """
        for plan in sorted((self.path / "plan").glob("[0-9]*.json")):
            name = str(plan.relative_to(self.path))
            if not self.remote.create(name, plan.read_bytes()):
                raise CacheMismatch(
                    f"{self.url}/{name} was written meanwhile by another extraction, with other settings; run the same "
                    "command again: it continues what that one planned, or says what differs"
                )
        at_once(self._put_if_other, sorted(self.path.rglob("zarr.json")))
        self._put_timing()

    def require_own_place(self) -> None:
        """A store never moves in where something else lies. Raises CacheMismatch."""
        there = self.remote.objects()
        if (there and "plan/0000.json" not in there) or COPYING in there:
            others = ", ".join(sorted(there)[:3])
            raise CacheMismatch(f"{self.url} is not a store, but holds {others}; set store to a new prefix")

    def commit(self, name: str, receipt: dict[str, Any]) -> None:
        """Upload the receipt's files, then put the receipt, then remove the files here.

        Raises:
            CacheMismatch: another writer's receipt of this unit is there, of other bytes.
        """
        self._withdraw(name, receipt)
        if self.remote.get(name) is None:
            try:
                at_once(lambda file: self.remote.put(file, self.path / file), receipt["files"])
            except FileNotFoundError:  # another worker here made this unit too, and was faster
                if self.remote.get(name) is None:
                    raise
        data = sealed(receipt)
        if not self.remote.create(name, data) and not self._same_files(name, receipt):
            raise CacheMismatch(
                f"{self.url}/{name} was written meanwhile by another extraction, of other bytes (another kind of "
                f"machine?); stop one of the two, then run `sward verify {self.url}` and this command again"
            )
        write_atomic(self.path / name, data)
        for done in receipt["files"]:
            (self.path / done).unlink(missing_ok=True)
        if time.monotonic() - self.timed > TIMING_EVERY:
            self._put_timing()

    def _withdraw(self, name: str, receipt: dict[str, Any]) -> None:
        """Remove a receipt that vouches for other records: one of a plan that was withdrawn."""
        found = self.remote.get(name)
        if found is not None and f'"records_digest": "{receipt["records_digest"]}"'.encode() not in found:
            self.remote.delete(name)

    def _same_files(self, name: str, receipt: dict[str, Any]) -> bool:
        self._fetch(name)
        return read_json(self.path / name).get("files") == receipt["files"]

    def _fetch(self, name: str) -> None:
        data = self.remote.get(name)
        if data is None:
            raise RemoteError(f"{self.url}/{name}: removed while it was being read; run this again")
        write_atomic(self.path / name, data)

    def _put_if_other(self, file: Path) -> None:
        name, data = str(file.relative_to(self.path)), file.read_bytes()
        if self.remote.get(name) != data:
            self.remote.put(name, data)

    def _put_timing(self) -> None:
        """What the units took, which is no part of the content: now and then, and nothing waits for it."""
        if not (self.path / TIMING).is_file():
            return
        self.timed = time.monotonic()
        with suppress(RemoteError):
            self.remote.put(TIMING, (self.path / TIMING).read_bytes())

    def _files(self) -> list[Path]:
        return [p for p in self.path.rglob("*") if p.is_file() and OWN not in p.parts and p.name != ".lock"]

    def _known(self) -> dict[str, str]:
        file = self.path / OWN / "tags.json"
        return read_json(file) if file.is_file() else {}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time changes the folder."""
        (self.path / OWN).mkdir(parents=True, exist_ok=True)
        with (self.path / OWN / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.path / OWN / "url.json").is_file():
                write_json(self.path / OWN / "url.json", self.url)
            yield


def mirrored(name: str) -> bool:
    """Whether an object is small and pulled: anything but the shards."""
    return name.split("/")[0] in FOLDERS or name.rsplit("/")[-1] == "zarr.json" or name == TIMING


def size_of(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def mirror_of(path: Path) -> Mirror | None:
    """The store at a URL that the folder stands for; None for a folder that is a store itself."""
    url = URLS.get(str(path))
    if url is None and (path / OWN / "url.json").is_file():
        url = URLS[str(path)] = read_json(path / OWN / "url.json")
    return _mirror(path, url) if url else None


@functools.cache
def _mirror(path: Path, url: str) -> Mirror:
    return Mirror(path, url)


def write_receipt(path: Path, file: Path, receipt: dict[str, Any]) -> None:
    """Write a unit's receipt, the last act of making it; of a store at a URL after its files, and there."""
    if mirror := mirror_of(path):
        mirror.commit(str(file.relative_to(path)), receipt)
    else:
        write_sealed(file, receipt)


def require_local(path: Path, verb: str) -> None:
    """Raises ValueError for a store at a URL, where ``verb`` works on local stores alone."""
    if str(path) in URLS:
        url = with_urls(path)
        raise ValueError(f"{verb} works on local stores, not on {url}; copy it here first: sward copy {url} FOLDER")
