"""Objects at a URL: listed, read by range, put; what goes wrong is said to people.

obstore (Rust's object_store) speaks to S3 and what is compatible, Google Cloud Storage and Azure; it retries errors of
the server with growing pauses. Credentials come from where these services' own tools look for them in the environment,
and appear in no message: of an answer only its status and its error code are repeated.
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

from pipeline.cache.errors import RemoteError

T = TypeVar("T")
AT_ONCE = 16  # requests
PIECE = 1 << 23  # bytes of one request, where an object is read whole
TRIES = 3  # of a request, each with the library's own retries
RETRY = {"max_retries": 5, "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)}}
DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AuthenticationFailed")
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
AGAIN = "what is finished is kept: the same command continues"


@dataclass(frozen=True)
class ObjectInfo:
    """Of an object: bytes, what changes with its content, and the service's own name of this version of it, if any."""

    bytes: int
    tag: str
    version: str | None = None


class Remote:
    """The objects below a URL; names are relative to it. Safe to share between threads, not over a fork.

    Every call raises RemoteError where the service refuses, or does not answer after all retries.
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
        """Every object below the URL."""
        return {o["path"]: facts(o) for o in self._ask("", self._listed)}

    def _listed(self) -> list[Any]:
        return [o for chunk in self._library.list(self._store) for o in chunk]

    def get(self, name: str) -> bytes | None:
        """A small object; None where there is none."""
        try:
            return self._ask(name, lambda: self._library.get(self._store, name).bytes().to_bytes())
        except FileNotFoundError:
            return None

    def range(self, name: str, start: int, size: int, version: str | None = None) -> Any:
        """Exactly ``size`` bytes from ``start`` on, as a buffer.

        Raises:
            FileNotFoundError: there is no such object.
            RemoteError: it ends before, or is another version than the one asked for.
        """
        options: Any = {"range": (start, start + size)} | ({"if_match": version} if version else {})
        data = self._ask(name, lambda: self._library.get(self._store, name, options=options).bytes())
        if len(data) != size:
            raise RemoteError(f"{self.url}/{name}: ends at {start + len(data)} bytes, expected {start + size}; {AGAIN}")
        return data

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """An object of ``size`` bytes, whole."""
        for start in range(0, size, PIECE):
            yield bytes(self.range(name, start, min(PIECE, size - start)))

    def put(self, name: str, data: bytes | Path) -> None:
        """Write an object, of bytes or a file (in parts where it is large); it appears whole or not at all."""
        self._ask(name, lambda: self._library.put(self._store, name, data))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that must not be there yet; False if another one is, True also if the same one is."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._ask(name, lambda: self._library.put(self._store, name, data, mode="create"))
        except AlreadyExistsError:
            return self.get(name) == data  # the same: of an equal writer, or of a try whose answer was lost
        return True

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            self._ask(name, lambda: self._library.delete(self._store, name))

    def _ask(self, name: str, call: Callable[[], T]) -> T:
        """The call's result, tried again where that may help.

        Raises:
            FileNotFoundError: no such object. AlreadyExistsError: for ``create``.
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
        server = urlsplit(os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "").netloc
        at = f" at {server.rsplit('@')[-1]}" if server and self.url.startswith("s3:") else ""
        return f"{self.url}/{name}{at}" if name else f"{self.url}{at}"

    def _reason(self, error: Exception) -> str:
        """What happened, and what to do."""
        text, status = str(error), http_status(error)
        if code(error, NO_BUCKET):
            return "there is no such bucket; create it, or correct the URL (or the endpoint in the environment)"
        if status in (401, 403) or code(error, DENIED) or "Unauthenticated" in type(error).__name__:
            named = f" ({found})" if (found := code(error, DENIED)) else ""
            return (
                f"access denied{named}; give this user the rights to list, read and write there, and the environment "
                "its credentials (README: Stores in object storage)"
            )
        if status == 412:
            return "it was replaced since the store was opened; let what writes there end, and run this again"
        if status == 501:
            return "the service lacks what a store needs (501), such as writing on condition that nothing is there"
        if "timed out" in text or "TimedOut" in text:
            return (
                f"no answer within {self.seconds:g} s, tried again and again; {AGAIN} when the service answers "
                "(SWARD_STORE_TIMEOUT=seconds gives it longer)"
            )
        if "169.254.169.254" in text or "metadata.google.internal" in text:
            return "no credentials in the environment (README: Stores in object storage); set them and run it again"
        if status:
            named = f" {answer[1]}" if (answer := re.search(r"<Code>(\w+)</Code>", text)) else ""
            return f"the service answers {status}{named}, tried again and again; {AGAIN} when it works again"
        if "error sending request" in text or "error decoding response" in text:
            return f"the service cannot be reached; check network and endpoint; {AGAIN}"
        return f"the service cannot be used as configured ({type(error).__name__}); check the URL and the environment"


def plain_http() -> bool:
    """Whether the user's own endpoint is http: such a server is on a network that the user trusts."""
    return (os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "").startswith("http://")


def facts(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["size"], meta["e_tag"] or str(meta["last_modified"]), meta["e_tag"])


def http_status(error: Exception) -> int | None:
    """Status code of the answer; None where there was no answer."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def code(error: Exception, known: Iterable[str]) -> str | None:
    """Which of the known error codes the answer holds."""
    return next((name for name in known if name in str(error)), None)


def permanent(error: Exception) -> bool:
    """Whether trying again is of no use: a refusal, not a failure."""
    from obstore import exceptions

    refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, exceptions.NotSupportedError)
    status = http_status(error)
    asked_wrongly = status is not None and 400 <= status < 500 and status not in (408, 409, 429)
    return isinstance(error, (*refused, ValueError)) or asked_wrongly or status == 501 or bool(code(error, NO_BUCKET))


def at_once(call: Callable[[Any], None], items: Iterable[Any]) -> None:
    """The call for every item, so many at a time; the first error is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(call, items))
