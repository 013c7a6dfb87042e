"""The process of the `sward` command, which ends with its exit status whatever Ctrl-C met.

Ctrl-C while a library is imported may come out as another error (numpy's is a RecursionError), and CPython ends by the
signal instead of the status if Ctrl-C once passed through `exec` of a text, as in making a dataclass.
"""

import atexit
import os
import signal
import sys
from typing import Any, NoReturn

from pipeline import console
from pipeline.cli.main import main

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run_process() -> NoReturn:
    """Runs `sward` with the process's arguments and ends the process with its exit status."""
    asked: list[int] = []
    status = 0

    def interrupt(number: int, frame: Any) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    def end() -> None:
        if status == INTERRUPTED:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    atexit.register(end)  # the first, which is called last
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores Ctrl-C
        signal.signal(signal.SIGINT, interrupt)
    try:
        status = main()
    except Exception:
        if not asked:
            raise
        console.say(console.STOPPED, file=sys.stderr)
        status = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said: Ctrl-C would only change the status
    sys.exit(status)
