"""Decides which worker may publish a unit that two workers have computed.

A scheduler that loses contact with a worker gives its unit to another worker, and both may finish. Every call of
`extract` has a folder of its own under tmp/. There, the first worker to finish a unit claims it with the checksums of
its files (by a hard link, which only one process can create). A later worker may publish the same bytes again, which
changes nothing; different bytes are refused. When the call ends the folder is removed, so no worker can claim a unit
after that.
"""

import os
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.cache.errors import ExtractionError
from pipeline.cache.manifest.records import Unit
from pipeline.files import canonical, sync_folder


class CallFolder:
    """The folder of one call of `extract` under the store's tmp/.

    It is identified only by its path, so workers on other machines use the same one.
    """

    def __init__(self, store: Path, call: str) -> None:
        self.store, self.folder = store, store / "tmp" / call
        self.claims = self.folder / "claims"

    def open(self) -> None:
        """Create the folder; called by the process that holds the store's lock.

        Raises:
            ExtractionError: the file system does not support hard links.
        """
        self.claims.mkdir(parents=True)
        sync_folder(self.folder)
        one, two = self.folder / "one", self.folder / "two"
        one.touch()
        try:
            os.link(one, two)
            two.unlink()
            one.unlink()
        except OSError as error:
            raise ExtractionError(
                f"the file system of {self.store} does not support hard links ({error.strerror}), which Dask workers "
                "need; use `runner: {kind: local}` or another file system"
            ) from error

    def require_visible(self) -> None:
        """Raise ExtractionError unless the call is still running and its folder is visible on this machine."""
        if not self.claims.is_dir():
            raise ExtractionError(
                f"the worker on {socket.gethostname()} does not see {self.claims}: the store's folder must be the same "
                "path on all workers and on the machine that started the extraction (or that extraction has ended)"
            )

    def attempt(self, unit: Unit) -> Path:
        """A new folder path for one execution of a unit, different from that of every other execution."""
        return self.folder / f"{unit.name}-{uuid4().hex}"

    def claim_or_confirm(self, unit: Unit, made: dict[str, Any]) -> bool:
        """Claim the unit for the bytes described by ``made``, unless its receipt is there; return whether it is.

        Args:
            unit: the unit that was computed.
            made: the part of its receipt that describes the bytes: "files" with sizes and checksums, "levels",
                "pixel_digests", "array_crc32c".

        Raises:
            ExtractionError: another execution has claimed or published the unit with different bytes.
        """
        content = canonical(made)
        receipt = unit.receipt(self.store)
        known = restricted(receipt, made) if receipt else self.claim(unit, content)
        if known != content:
            raise ExtractionError(
                f"{unit.name} was computed twice, with different bytes (second time on {socket.gethostname()}). "
                "Workers differ in GPU, CPU or torch version. Nothing was overwritten: use identical workers, then run "
                "`sward verify`."
            )
        return receipt is not None

    def claim(self, unit: Unit, content: bytes) -> bytes:
        """Claim the unit for ``content``; return the content of its first claim: this one, or an earlier one."""
        own, first = self.claims / f".{uuid4().hex}", self.claims / f"{unit.name}.json"
        with own.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(own, first)
        except FileExistsError:
            return first.read_bytes()
        finally:
            own.unlink()
        return content


def restricted(receipt: dict[str, Any], made: dict[str, Any]) -> bytes:
    """The part of a receipt that ``made`` also has, as canonical JSON."""
    files = {name: receipt["files"].get(name) for name in made["files"]}
    return canonical({key: receipt.get(key) for key in made} | {"files": files})
