"""Resolves configured paths and store URLs to local paths, so that no configuration holds an absolute path.

A relative path whose first part is ``data`` lies under the data root: ``$SWARD_DATA``, or ``data`` in the current
folder. Cards and split lists come with the program, so a file to read that is not under the data root is also looked
for in the checkout's (or the installed package's) own ``data/``; likewise a configuration under ``configs``. Every
other path is relative to the current folder. ``~`` and ``$VARIABLE`` are replaced in all of them.

A store at a URL (``s3://bucket/prefix``) is read and written through a local folder below the cache root that mirrors
it (`cache/storage/mirror.py`). Readers and writers have different folders, so neither sees the other's unfinished work.
"""

import hashlib
import os
import re
from pathlib import Path

BESIDE = Path(__file__).resolve().parent / "shipped"  # in an installed wheel; a checkout has its files at its top
SHIPPED = BESIDE if BESIDE.is_dir() else BESIDE.parents[1]
CATALOGUE = SHIPPED / "data"  # the committed cards and splits
CONFIGS = SHIPPED / "configs"  # the committed configurations
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT")
UNSET = re.compile(r"\$(\w+|\{[^}]*\})")  # a variable that `expandvars` left in place
URLS: dict[str, str] = {}  # mirror folder -> URL of the store, for the stores used by this process


def data_root() -> Path:
    """The data root as an absolute path: ``$SWARD_DATA``, or ``data`` in the current folder if it is unset."""
    return Path(os.environ.get("SWARD_DATA") or "data").absolute()


def cache_root() -> Path:
    """``$SWARD_CACHE``, or ``sward`` in the user's cache folder; it may be removed at any time without loss."""
    own, usual = os.environ.get("SWARD_CACHE"), os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).absolute() if own else Path(usual).absolute() / "sward"


def expand(path: str | Path) -> str:
    """The path with ``~`` and ``$VARIABLE`` replaced, so that no folder of such a name is ever made.

    A path with ``$`` that exists as it is written is used as it is.

    Raises:
        ValueError: a variable is not set, or there is no such user.
    """
    text = str(path)
    if text.startswith("~"):
        text = os.path.expanduser(text)  # noqa: PTH111 (Path's raises for an unknown user)
    if "$" in text and not os.path.lexists(text):
        text = os.path.expandvars(text)
    if text.startswith("~") or (unknown := UNSET.search(text) if not os.path.lexists(text) else None):
        what = text.split("/")[0] if text.startswith("~") else unknown[0]  # type: ignore[index]
        raise ValueError(f"{path}: {what} has no value here; set it, or write the path out")
    return text


def is_url(path: str | Path) -> bool:
    return isinstance(path, str) and "://" in path


def mirror_folder(url: str, role: str) -> Path:
    """The local folder that mirrors a store at a URL.

    It also depends on the endpoint in the environment, so that equal URLs at two services have two folders.

    Args:
        url: ``s3://``, ``gs://`` or ``az://``, bucket and prefix.
        role: "read" or "write".

    Raises:
        ValueError: not the URL of an object store, or one that contains credentials.
    """
    if not re.fullmatch(r"(s3|gs|az)://[^/@?#]+(/[^?#]*)?", url):
        shown = re.sub("//.*@", "//", url)
        raise ValueError(
            f"{shown}: expected s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, without credentials; "
            "set these in the environment"
        )
    url = url.rstrip("/")
    server = [os.environ.get(name, "") for name in ENDPOINTS]
    key = hashlib.sha256("\n".join([url, *server]).encode()).hexdigest()[:16]
    folder = cache_root() / role / key / url.rsplit("/", 1)[-1]
    URLS[str(folder)] = url
    return folder


def with_urls(text: object) -> str:
    """The text with every mirror folder replaced by the URL of its store."""
    found = str(text)
    for folder, url in URLS.items():
        found = found.replace(folder, url)
    return found


def read_path(path: str | Path) -> Path:
    """Local path for reading ``path``: under the data root, or in the checkout if only that has it.

    A path that exists in neither is returned as one under the data root.
    """
    path = expand(path)
    if is_url(path):
        return mirror_folder(path, "read")
    placed = write_path(path)
    if placed.exists() or not _in_data(Path(path)):
        return placed
    committed = CATALOGUE.joinpath(*Path(path).parts[1:])
    return committed if committed.exists() else placed


def config_path(path: str | Path) -> Path:
    """Local path of a configuration: in the current folder, or a shipped one if only that exists."""
    placed = Path(path)
    shipped = CONFIGS.joinpath(*placed.parts[1:])
    inside = not placed.is_absolute() and placed.parts[:1] == ("configs",) and not placed.exists()
    return shipped if inside and shipped.is_file() else placed


def write_path(path: str | Path) -> Path:
    """Local path for writing ``path``: ``data/...`` under the data root, any other path unchanged."""
    path = expand(path)
    if is_url(path):
        return mirror_folder(path, "write")
    return data_root().joinpath(*Path(path).parts[1:]) if _in_data(Path(path)) else Path(path)


def _in_data(path: Path) -> bool:
    return not path.is_absolute() and path.parts[:1] == ("data",)
