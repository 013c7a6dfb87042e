"""A real S3-compatible server on loopback (moto), behind a door that fails, stalls and trickles as it is told."""

import random
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import obstore
from obstore.store import from_url

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIASWARDTESTKEY", "AWS_SECRET_ACCESS_KEY": "verysecret+of/these=tests"}
HELD = 2.4  # seconds a connection is held; the clients of the tests give up after half of it
PIECES = 8  # a slow answer comes in so many


class Door:
    """WSGI middleware that draws a fault for every request: of ``share`` of them, in equal parts."""

    def __init__(self, app: Callable[..., Any], share: float = 0.0, seed: int = 0) -> None:
        self.app, self.share, self.random = app, share, random.Random(seed)
        self.lock, self.counts, self.denied = threading.Lock(), Counter[str](), False
        self.watch: Callable[[str, str], None] = lambda method, path: None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.watch(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        with self.lock:
            drawn = self.random.random()
            fault = ("error", "held", "slow")[int(3 * drawn / self.share)] if drawn < self.share else "none"
            fault = "denied" if self.denied else fault
            self.counts |= Counter({fault: self.counts[fault] + 1, "all": self.counts["all"] + 1})
        if fault == "none":
            return self.app(environ, start)
        body = b"".join(self.app(environ, start)) if fault == "slow" else b""
        if fault == "slow":
            return trickle(body)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault == "held":
            time.sleep(HELD)
        status = "403 Forbidden" if fault == "denied" else "500 Internal Server Error"
        start(status, [("Content-Type", "application/xml")])
        key = f"<AWSAccessKeyId>{SECRETS['AWS_ACCESS_KEY_ID']}</AWSAccessKeyId>" if fault == "denied" else ""
        name = "InvalidAccessKeyId" if fault == "denied" else "InternalError"
        return [f"<Error><Code>{name}</Code><Message>injected</Message>{key}</Error>".encode()]


def trickle(body: bytes) -> Iterator[bytes]:
    step = max(1, -(-len(body) // PIECES))
    for start in range(0, len(body), step):
        time.sleep(0.2 / PIECES)
        yield body[start : start + step]


@contextmanager
def serving(bucket: str = "features", share: float = 0.0, seed: int = 0) -> Iterator[tuple[str, Door]]:
    """(URL of the server, its door); the bucket exists."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def log(self, *_: Any) -> None:
            pass

    door = Door(DomainDispatcherApplication(create_backend_app), 0.0, seed)
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
        door.share = share
        yield url, door
    finally:
        server.shutdown()
        server.server_close()


def environment(url: str) -> dict[str, str]:
    """What a client needs: the standard names, and less patience than people have."""
    return SECRETS | {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "SWARD_STORE_TIMEOUT": str(HELD / 2)}


def client_of(url: str) -> Any:
    """A client of the URL that is not ours."""
    return from_url(url, client_options={"allow_http": True})


def objects(url: str) -> dict[str, bytes]:
    """Name -> content of everything below a URL, as another client sees it."""
    store = client_of(url)
    names = [o["path"] for chunk in obstore.list(store) for o in chunk]
    return {name: obstore.get(store, name).bytes().to_bytes() for name in names}


def without_place(files: dict[str, bytes]) -> dict[str, bytes]:
    """Every file but timing and lock; of a plan not the line that names the place, nor the seal over it."""
    own = re.compile(rb'^.*"(store|seal)": .*$', re.MULTILINE)
    kept = {name: data for name, data in files.items() if name not in ("timing.jsonl", ".lock")}
    return {name: own.sub(b"", data) if name.startswith("plan/") else data for name, data in kept.items()}
