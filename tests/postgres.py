"""A PostgreSQL server of the test's own on loopback, where the machine has the programs."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """The folder of initdb and postgres (Debian keeps them off the path); None where there are none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@contextmanager
def postgresql(bin: Path) -> Iterator[str]:
    """The address, as Prefect's server takes it, of a new database that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    initdb = [bin / "initdb", "-D", folder / "data", "-U", "prefect", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", folder]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [bin / "postgres", "-D", folder / "data", *address], user=user, cwd=folder, stdout=log, stderr=log
        )
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown: it waits for no client
        server.wait(60)
        shutil.rmtree(folder)
