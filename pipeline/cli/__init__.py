"""The `sward` command."""

import os
import sys

try:  # the imports take most of a second
    from pipeline.cli.main import main
    from pipeline.cli.process import run_process
except KeyboardInterrupt:
    print("\nstopped before it began; the same command starts it", file=sys.stderr, flush=True)
    os._exit(130)  # nothing is open yet

__all__ = ["main", "run_process"]
