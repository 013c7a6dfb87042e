"""Several workers, one store: who may publish a unit, when it can happen that two have computed it.

A scheduler that has lost sight of a worker gives its unit to another, and both may finish. Every call of `extract`
has a folder of its own under tmp/. In it a unit's first finisher claims it with the digests of what it made (a hard
link, which one alone can make). Whoever comes later may publish the same bytes again, which changes nothing, and is
refused with any other. When the call is over the folder is gone, and nobody can claim anything any more.
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
    """A call's folder under the store's tmp/, by path alone: workers on other machines see the same."""

    def __init__(self, store: Path, call: str) -> None:
        self.store, self.folder = store, store / "tmp" / call
        self.claims = self.folder / "claims"

    def open(self) -> None:
        """Made by the process that holds the store's lock."""
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
                f"the file system of {self.store} has no hard links ({error.strerror}), by which several workers "
                "agree; use runner: {kind: local}, or put the store elsewhere"
            ) from error

    def require_visible(self) -> None:
        """Raise ExtractionError unless the call is going on, and is seen from here."""
        if not self.claims.is_dir():
            raise ExtractionError(
                f"the worker on {socket.gethostname()} does not see {self.claims}: the store's folder must be the same "
                "on every worker and where the extraction was started (or the extraction is over)"
            )

    def attempt(self, unit: Unit) -> Path:
        """A folder for one execution of a unit; no other execution gets the same."""
        return self.folder / f"{unit.name}-{uuid4().hex}"

    def claim_or_confirm(self, unit: Unit, made: dict[str, Any]) -> bool:
        """Whether the unit is finished, with these bytes; if it is not, it is claimed for them.

        Args:
            made: what a receipt will say of the bytes: "files" and the facts.

        Raises:
            ExtractionError: another execution has made other bytes.
        """
        content = canonical(made)
        receipt = unit.receipt(self.store)
        known = restricted(receipt, made) if receipt else self.claim(unit, content)
        if known != content:
            raise ExtractionError(
                f"{unit.name} was computed twice, with different bytes, the second time on {socket.gethostname()}: "
                "the workers do not compute alike (another GPU, CPU or version of torch?); nothing was overwritten. "
                "Use workers of one kind; `sward verify` says whether the finished shards are right"
            )
        return receipt is not None

    def claim(self, unit: Unit, content: bytes) -> bytes:
        """The first claim of the unit: this one, or an earlier one."""
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
    """Of a receipt, what ``made`` speaks of."""
    files = {name: receipt["files"].get(name) for name in made["files"]}
    return canonical({key: receipt.get(key) for key in made} | {"files": files})
