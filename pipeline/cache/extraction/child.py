"""Extraction as a child process: `python -m pipeline.cache.extraction.child PARENT`, with the configuration on stdin.

It runs the same `extract` as `sward extract` and ends with its parent, the process of number PARENT, however that ends
(`beside.py`). On stdout it tells its progress, a JSON list [records done, records planned] a line; the first one when
the store's plan is written. On stderr are notes, and last the reason of a failure.
"""

import json
import os
import sys
import time
import traceback

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.beside import GRACE, REASON
from pipeline.cache.extraction.extract import extract
from pipeline.files import Busy
from pipeline.stopping import end_with_parent

PREDECESSOR = 30.0  # seconds to wait for the store's lock: the child of a killed parent holds it until it has ended
EXPECTED = (ValueError, OSError)  # and ExtractionError: with messages for people


def tell(done: int, total: int) -> None:
    print(json.dumps([done, total]), flush=True)


def run(config: CacheConfig) -> None:
    """Extracts the store of ``config``; waits a while for another process that is writing it."""
    until = time.monotonic() + PREDECESSOR
    while True:
        try:
            extract(config, tell)
            return
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def main() -> int:
    """Body of the process; returns its exit status."""
    end_with_parent(int(sys.argv[1]), GRACE, piped=True)
    if os.getppid() != int(sys.argv[1]):
        return 1
    try:
        run(CacheConfig.model_validate_json(sys.stdin.read()))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, EXPECTED) and type(error).__name__ not in ("ExtractionError", "OutOfMemoryError"):
            traceback.print_exc()
        print(f"{REASON}{error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
