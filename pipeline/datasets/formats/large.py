"""Limits how many large pictures are decoded at once: memory is needed for a few of them, not for one a thread."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

LARGE = 2_000_000  # pixels
_large = threading.BoundedSemaphore(2)


@contextmanager
def few_at_a_time(*contents: bytes) -> Iterator[None]:
    """Waits until at most one other large picture is being decoded, if one of ``contents`` is large."""
    if max(map(_pixels, contents), default=0) < LARGE:
        yield
        return
    with _large:
        yield


def _pixels(content: bytes) -> int:
    """Pixels by the header; of what Pillow does not know, the bytes."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.width * image.height
    except Exception:  # told when it is decoded
        return len(content)
