"""The process of the `sward` command, which ends with its exit status whatever Ctrl-C met.

Ctrl-C waits for the end of an import: compiled libraries abort the process (torch) or change the error (numpy's is a
RecursionError) if KeyboardInterrupt passes through them while they start. And CPython ends by the signal instead of the
status if Ctrl-C once passed through `exec` of a text, as in making a dataclass.
"""

import atexit
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from pipeline import console
from pipeline.cli.main import main

INTERRUPTED = 130  # 128 + SIGINT, as shells count
ASK_AGAIN = 0.05  # seconds until Ctrl-C that met an import is looked at again


def run_process() -> NoReturn:
    """Runs `sward` with the process's arguments and ends the process with its exit status."""
    asked: list[int] = []
    status = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if within_import(frame):
            signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN)
        else:
            raise KeyboardInterrupt

    def end() -> None:
        if status == INTERRUPTED:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    atexit.register(end)  # the first, which is called last
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores Ctrl-C
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
    try:
        status = main()
    except (Exception, KeyboardInterrupt):  # main answers Ctrl-C itself once it has read its arguments
        if not asked:
            raise
        console.say(console.STOPPED, file=sys.stderr)
        status = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said: Ctrl-C would only change the status
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(status)


def within_import(frame: FrameType | None) -> bool:
    """True where a frame or one of its callers is Python's import system at work."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
