"""Where files lie: one rule, so that no configuration holds an absolute path.

A relative path whose first part is ``data`` lies under the data root: ``$SWARD_DATA``, or ``data`` in the
current folder. Cards and split lists are committed, so for reading, what the data root lacks is looked for in
the checkout's own ``data/``. Every other path is taken as it is, relative to the current folder.

A store at a URL (``s3://bucket/prefix``) is worked on through a folder below the cache root that stands for it
(`cache/mirror.py`): one for reading, another for writing, so that neither sees the other half done.
"""

import hashlib
import os
import re
from pathlib import Path

CATALOGUE = Path(__file__).resolve().parents[1] / "data"  # the checkout's committed cards and splits
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT")
URLS: dict[str, str] = {}  # folder that stands for a store -> its URL, of this process


def data_root() -> Path:
    """``$SWARD_DATA``, or ``data`` where it is unset, as an absolute path."""
    return Path(os.environ.get("SWARD_DATA") or "data").absolute()


def cache_root() -> Path:
    """``$SWARD_CACHE``, or ``sward`` in the user's cache folder: nothing there is missed when it is removed."""
    own, usual = os.environ.get("SWARD_CACHE"), os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).absolute() if own else Path(usual).absolute() / "sward"


def is_url(path: str | Path) -> bool:
    return isinstance(path, str) and "://" in path


def mirror_folder(url: str, role: str) -> Path:
    """The folder that stands for a store at a URL, for ``role`` (read, write); the endpoint is a part of the place.

    Raises:
        ValueError: no URL of an object store, or one with a password in it.
    """
    if not re.fullmatch(r"(s3|gs|az)://[^/@?#]+(/[^?#]*)?", url):
        shown = re.sub("//.*@", "//", url)
        raise ValueError(
            f"{shown}: expected s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, without credentials: "
            "they come from the environment"
        )
    url = url.rstrip("/")
    server = [os.environ.get(name, "") for name in ENDPOINTS]
    key = hashlib.sha256("\n".join([url, *server]).encode()).hexdigest()[:16]
    folder = cache_root() / role / key / url.rsplit("/", 1)[-1]
    URLS[str(folder)] = url
    return folder


def with_urls(text: object) -> str:
    """The text, with URLs in place of the folders that stand for them."""
    found = str(text)
    for folder, url in URLS.items():
        found = found.replace(folder, url)
    return found


def read_path(path: str | Path) -> Path:
    """Where to read ``path``: the data root, else the checkout; else the root's place."""
    if is_url(path):
        return mirror_folder(str(path), "read")
    placed = write_path(path)
    if placed.exists() or not _in_data(Path(path)):
        return placed
    committed = CATALOGUE.joinpath(*Path(path).parts[1:])
    return committed if committed.exists() else placed


def write_path(path: str | Path) -> Path:
    """Where to write ``path``: ``data/...`` under the data root, any other path as it is."""
    if is_url(path):
        return mirror_folder(str(path), "write")
    path = Path(path)
    return data_root().joinpath(*path.parts[1:]) if _in_data(path) else path


def _in_data(path: Path) -> bool:
    return not path.is_absolute() and path.parts[:1] == ("data",)
