"""Runs a `sward` verb as a child process that is stopped when its parent ends.

Both stages run this way, because Prefect breaks loader workers forked inside a flow, and because a killed Prefect
worker runs no clean-up. The parent calls `run`; the child is `python -m flows.verb_process PARENT VERB …`, where PARENT
is the parent's process id. This file does not import Prefect.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipeline.stopping import end_with_parent, stop_process

GRACE = 20.0  # seconds between SIGTERM and SIGKILL; Prefect itself allows a cancelled flow 30
TAIL = 40  # lines kept for the error message
STOPPED = (130, -signal.SIGTERM, -signal.SIGINT)  # exit statuses of a verb that was asked to stop
TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}  # temporary errors of network file systems


class ChildFailed(RuntimeError):
    """The verb refused or failed; the message is the verb's own."""


class TransientError(ChildFailed):
    """The verb failed in reading or writing a file, which may succeed when tried again."""


class Stopped(ChildFailed):
    """The verb was asked to stop; a new run with the same configuration continues."""


def whole_lines(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without a terminal's width: the log's reader folds the lines, not the verb."""
    return {name: value for name, value in environment.items() if name != "COLUMNS"}


def run(
    verb: str,
    config: Path,
    overrides: Iterable[str],
    show: Callable[[str], None],
    grace: float = GRACE,
    options: Iterable[str] = (),
) -> list[str]:
    """Runs ``sward VERB config --set …`` and returns its last lines of output.

    The process has ended when this call returns or raises, also after a cancellation.

    Args:
        verb: verb of the `sward` command.
        config: its configuration file.
        overrides: settings for --set, e.g. "seed=1".
        show: called with each line as it is printed.
        grace: seconds between SIGTERM and SIGKILL.
        options: further arguments of the verb.

    Raises:
        Stopped, TransientError, ChildFailed: the exit status was not 0.
    """
    arguments = [verb, str(config), *options, *(part for text in overrides for part in ("--set", text))]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.verb_process", str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=whole_lines(os.environ) | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,  # signals to the flow's process group reach the child only through `stop_process`
    )
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            show(tail[-1])
        status = process.wait()
    finally:
        stop_process(process, grace)
        if process.stdout:
            process.stdout.close()
    if status:
        raise failure(verb, status, list(tail))
    return list(tail)


def failure(verb: str, status: int, tail: list[str]) -> ChildFailed:
    """Error for an exit status, with the verb's own message, or its last lines of output if it printed none."""
    if status in STOPPED:
        return Stopped(f"sward {verb} was stopped; what is finished is kept, a new run continues from there")
    if status < 0:
        name = signal.Signals(-status).name
        return ChildFailed(f"sward {verb} was ended by {name}; what is finished is kept, a new run continues")
    begins = [i for i, line in enumerate(tail) if line.startswith(f"sward {verb}: ")]
    text = "\n".join(tail[begins[-1] :] if begins else tail) or f"sward {verb}: exit status {status}, no message"
    number = re.search(r"\[Errno (\d+)\]", text)
    return (TransientError if number and int(number[1]) in TRANSIENT else ChildFailed)(text)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]), GRACE, piped=True)
    from pipeline.cli import main

    sys.exit(main(sys.argv[2:]))
