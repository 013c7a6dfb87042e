"""Object-store client (S3, GCS, Azure): list, range read, put, with retries and readable errors.

It uses obstore (Rust's object_store), which speaks to S3 and compatible services, Google Cloud Storage and Azure, and
retries server errors with growing pauses. Credentials come from the environment, where the services' own tools look for
them. No message contains them: of a server's answer only status and error code are shown.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.cache.errors import KEPT, RemoteError

T = TypeVar("T")
AT_ONCE = 16  # concurrent requests
PIECE = 1 << 23  # bytes per request when a whole object is read
TRIES = 3  # attempts per call, each with the library's own retries
RETRY = {"max_retries": 5, "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)}}
DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AuthenticationFailed")
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")


@dataclass(frozen=True)
class ObjectInfo:
    """Size and version of an object.

    Attributes:
        bytes: size.
        tag: changes with the content: the ETag, or without one the time of modification.
        version: the ETag, by which the service knows this version; None if it gives none.
    """

    bytes: int
    tag: str
    version: str | None = None


class Remote:
    """Client for the objects below a URL; names are relative to it. Threads may share it, forked processes may not.

    Every call raises RemoteError if the service refuses, or does not answer after all retries.
    """

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            raise RemoteError(f"{url}: stores at URLs need obstore; install it: pip install 'sward[cloud]'") from error
        self.url, self._library = url, obstore
        self.seconds = float(os.environ.get("SWARD_STORE_TIMEOUT") or 30)
        options: Any = {"timeout": timedelta(seconds=self.seconds), "allow_http": plain_http()}
        options["connect_timeout"] = timedelta(seconds=min(5.0, self.seconds))
        retry: Any = RETRY | {"retry_timeout": timedelta(seconds=4 * self.seconds)}
        self._store = self._ask("", lambda: from_url(url, client_options=options, retry_config=retry))

    def objects(self) -> dict[str, ObjectInfo]:
        """Lists every object below the URL, by name."""
        return {o["path"]: facts(o) for o in self._ask("", self._listed)}

    def _listed(self) -> list[Any]:
        return [o for chunk in self._library.list(self._store) for o in chunk]

    def get(self, name: str) -> bytes | None:
        """Reads a small object; None if it does not exist."""
        try:
            return self._ask(name, lambda: self._library.get(self._store, name).bytes().to_bytes())
        except FileNotFoundError:
            return None

    def range(self, name: str, start: int, size: int, version: str | None = None) -> Any:
        """Reads exactly ``size`` bytes from offset ``start`` on, as a buffer.

        Raises:
            FileNotFoundError: there is no such object.
            RemoteError: the object ends before, or is no longer at ``version``.
        """
        options: Any = {"range": (start, start + size)} | ({"if_match": version} if version else {})
        data = self._ask(name, lambda: self._library.get(self._store, name, options=options).bytes())
        if len(data) != size:
            raise RemoteError(f"{self.url}/{name}: ends at {start + len(data)} bytes, expected {start + size}; {KEPT}")
        return data

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """Yields a whole object of ``size`` bytes, in pieces of 8 MiB."""
        for start in range(0, size, PIECE):
            yield bytes(self.range(name, start, min(PIECE, size - start)))

    def put(self, name: str, data: bytes | Path) -> None:
        """Writes an object from bytes or a file, a large one in parts; it appears complete or not at all."""
        self._ask(name, lambda: self._library.put(self._store, name, data))

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object if none of this name exists; returns False if one with other bytes does."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._ask(name, lambda: self._library.put(self._store, name, data, mode="create"))
        except AlreadyExistsError:
            return self.get(name) == data  # equal: another writer's, or an attempt of ours whose answer was lost
        return True

    def delete(self, name: str) -> None:
        """Removes an object, if it exists."""
        with suppress(FileNotFoundError):
            self._ask(name, lambda: self._library.delete(self._store, name))

    def _ask(self, name: str, call: Callable[[], T]) -> T:
        """Result of ``call``, repeated after errors where that may help; ``name`` is the object, for messages.

        Raises:
            FileNotFoundError: there is no such object.
            AlreadyExistsError: (for ``create``) there is one already.
            RemoteError: the service refused, or the last attempt failed.
        """
        from obstore.exceptions import AlreadyExistsError, BaseError

        for left in reversed(range(TRIES)):
            try:
                return call()
            except AlreadyExistsError:
                raise
            except (BaseError, OSError, ValueError) as error:
                missing = isinstance(error, FileNotFoundError) and not code(error, NO_BUCKET)
                if missing:
                    raise FileNotFoundError(f"{self.url}/{name}: no such object") from None
                if not left or permanent(error):
                    raise RemoteError(f"{self._place(name)}: {self._reason(error)}") from None
                time.sleep(0.2 * 2 ** (TRIES - left))
        raise AssertionError("the last try returns or raises")

    def _place(self, name: str) -> str:
        """URL of an object and, for S3, the server at a configured endpoint, without credentials."""
        server = urlsplit(os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "").netloc
        at = f" at {server.rsplit('@')[-1]}" if server and self.url.startswith("s3:") else ""
        return f"{self.url}/{name}{at}" if name else f"{self.url}{at}"

    def _reason(self, error: Exception) -> str:
        """Cause of an error and its remedy, as the end of a message."""
        text, status = str(error), http_status(error)
        if code(error, NO_BUCKET):
            return "there is no such bucket; create it, or correct the URL (or the endpoint in the environment)"
        if status in (401, 403) or code(error, DENIED) or "Unauthenticated" in type(error).__name__:
            named = f" ({found})" if (found := code(error, DENIED)) else ""
            return (
                f"access denied{named}; give this user the rights to list, read and write there, and set its "
                "credentials in the environment (docs/how-to/object-storage.md)"
            )
        if status == 412:
            return (
                "it was replaced since the store was opened; wait for the other writer to finish, then run this again"
            )
        if status == 501:
            return (
                "the service does not support conditional writes (HTTP 501), which a store needs; use another service "
                "or a local store"
            )
        if "timed out" in text or "TimedOut" in text:
            return (
                f"no answer within {self.seconds:g} s, tried again and again; {KEPT} when the service answers "
                "(SWARD_STORE_TIMEOUT=seconds sets a longer limit)"
            )
        if "169.254.169.254" in text or "metadata.google.internal" in text:
            return "no credentials in the environment (docs/how-to/object-storage.md); set them and run this again"
        if status:
            named = f" {answer[1]}" if (answer := re.search(r"<Code>(\w+)</Code>", text)) else ""
            return f"the service answers {status}{named}, tried again and again; {KEPT} when it works again"
        if "error sending request" in text or "error decoding response" in text:
            return f"the service cannot be reached; check network and endpoint; {KEPT}"
        return f"the service cannot be used as configured ({type(error).__name__}); check the URL and the environment"


def plain_http() -> bool:
    """Whether the endpoint in the environment is http://: allowed, as the user chose it for a trusted network."""
    return (os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "").startswith("http://")


def facts(meta: Any) -> ObjectInfo:
    """Size and version of an object, from obstore's metadata of it."""
    return ObjectInfo(meta["size"], meta["e_tag"] or str(meta["last_modified"]), meta["e_tag"])


def http_status(error: Exception) -> int | None:
    """HTTP status code in an error; None if there was no answer."""
    status = re.search(r"status code: (\d{3})", str(error))
    return int(status[1]) if status else None


def code(error: Exception, known: Iterable[str]) -> str | None:
    """First of the known error codes that an error contains; None if it contains none."""
    return next((name for name in known if name in str(error)), None)


def permanent(error: Exception) -> bool:
    """Whether another attempt cannot help, because the service refused the request."""
    from obstore import exceptions

    refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, exceptions.NotSupportedError)
    status = http_status(error)
    asked_wrongly = status is not None and 400 <= status < 500 and status not in (408, 409, 429)
    return isinstance(error, (*refused, ValueError)) or asked_wrongly or status == 501 or bool(code(error, NO_BUCKET))


def at_once(call: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Calls ``call`` for every item, 16 at a time; raises the first error."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(call, items))
