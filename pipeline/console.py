"""Terminal output: a progress bar with rate and remaining time (plain lines without a terminal), and result lines."""

import os
import re
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import wrap
from typing import Any, TextIO

from pipeline.documents import RUN, Facts, Profile, StudentCard, read_document
from pipeline.plain_text import one_line, printable

Show = Callable[..., None]
STOPPED = "\nstopped; what is finished is kept, the same command continues"
BETWEEN_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
QUIET_SECONDS = 10  # minimum time between progress lines without a terminal


def width() -> int:
    """Columns of the terminal; 100 where there is none, as in a file."""
    return shutil.get_terminal_size((100, 24)).columns


def columns(file: TextIO | None = None) -> int | None:
    """Columns that a text must fit: those of the terminal or of ``COLUMNS``; None where the output goes to a file."""
    return width() if "COLUMNS" in os.environ or (file or sys.stdout).isatty() else None


def say(text: object, file: TextIO | None = None) -> None:
    """Prints a text; terminal escapes in names of files, classes and samples are spelled out."""
    print(printable(text), file=file, flush=True)


def tell(text: object, file: TextIO | None = None) -> None:
    """``say``, with lines longer than the terminal continued below, between words; for what is read, not parsed."""
    most = columns(file)
    say(folded(str(text), most) if most else text, file)


def folded(text: str, most: int) -> str:
    """The text with no line longer than ``most``, unless a word is or it is a table's.

    A line goes on below its first word where that is a title, followed by two blanks or more; else 2 blanks further in.
    """
    lines = []
    for line in text.splitlines():
        title = re.match(r"\S+ {2,}| *", line)
        inner = " " * (len(title[0]) if title and title[0].strip() and len(title[0]) <= most // 3 else 2)
        fits = len(line) <= most or line.startswith("|")
        lines += [line] if fits else wrap(line, most, subsequent_indent=inner, **BETWEEN_WORDS)
    return "\n".join(lines)


def without_reader() -> bool:
    """Whether the reader of the output (`head`, a pager) has ended; what is still to be printed is then dropped."""
    with suppress(OSError, ValueError):  # the output is no file of the system, as in tests
        state = select.poll()
        state.register(sys.stdout.fileno(), select.POLLOUT)
        if any(event & select.POLLERR for _, event in state.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False


@contextmanager
def progress(title: str, unit: str) -> Iterator[Show]:
    """Yields ``show(done, total, value=None)``, which displays progress on stderr; ``value`` is a loss.

    Args:
        title: text in front of the bar.
        unit: what is counted, in plural, e.g. "records".
    """
    title = one_line(title)
    if not sys.stderr.isatty():
        yield _lines(title, unit)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape(title), total=None, rate="")
        rate = _Rate()

        def show(done: int, total: int, value: float | None = None) -> None:
            loss = "" if value is None else f"  loss {value:.4f}"
            bar.update(task, completed=done, total=total, rate=f"{rate(done):.1f} {unit}/s{loss}")

        yield show


class _Rate:
    """Units per second since the first call; what an earlier process had done by then is not counted."""

    def __init__(self) -> None:
        self.began, self.first = time.monotonic(), -1

    def __call__(self, done: int) -> float:
        self.first = done if self.first < 0 else self.first
        return (done - self.first) / max(time.monotonic() - self.began, 1e-9)


def _lines(title: str, unit: str) -> Show:
    rate, last = _Rate(), [0.0]

    def show(done: int, total: int, value: float | None = None) -> None:
        speed = rate(done)
        if done < total and time.monotonic() - last[0] < QUIET_SECONDS:
            return
        last[0] = time.monotonic()
        left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
        loss = "" if value is None else f", loss {value:.4f}"
        print(f"{title}: {done}/{total} {unit}, {speed:.1f}/s{left}{loss}", file=sys.stderr, flush=True)

    return show


def note(text: str) -> None:
    """Prints a line of a process that works beside this one, on stderr."""
    say(text, file=sys.stderr)


def spoken(what: str, unit: str) -> Show:
    """``show(done, total)`` of work beside the one whose progress is displayed: a sentence every ten seconds."""
    rate, last = _Rate(), [0.0]

    def show(done: int, total: int) -> None:
        speed = rate(done)
        if done < total and time.monotonic() - last[0] < QUIET_SECONDS:
            return
        last[0] = time.monotonic()
        note(f"{what} {done} of {total} {unit}, {speed:.1f}/s")

    return show


def run_lines(folder: Path) -> list[str]:
    """Lines with the metrics of a finished run's best step, as a table, and the path of its student."""
    facts, card = read_document(folder / "run.json", Facts, RUN), folder / "student.json"
    found = {"val": read_document(card, StudentCard, RUN).get("validation", {})} if card.is_file() else {}
    trained = f"trained on {facts['device']}, {facts['threads']} threads"
    step = f"best of the validations: step {facts['best_step']}" if facts.get("best_step") else "metrics"
    return [
        f"{folder}: {step}",
        *metric_table(found | {facts["subset"]: facts["test"]}),
        f"student: {folder / 'student.safetensors'}; {trained}",
    ]


def metric_table(splits: dict[str, dict[str, float | None]]) -> list[str]:
    """Lines of a table: a row for each metric with name and unit, a column for each split."""
    from sward.metrics.names import in_unit, named

    names = dict.fromkeys(name for metrics in splits.values() for name in metrics)
    lines = [["", *splits]]
    for name in names:
        shown = (in_unit(name, metrics[name]) if name in metrics else "–" for metrics in splits.values())
        lines.append([named(name), *shown])
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([f"{line[0]:{wide[0]}}", *map(str.rjust, line[1:], wide[1:])]) for line in lines]


def profile_lines(folder: Path) -> list[str]:
    """Lines with the table of a run's profile.json."""
    found = read_document(folder / "profile.json", Profile, "delete it and profile again")
    last = found["first_step"] + found["steps"]
    return [
        f"steps {found['first_step'] + 1} to {last} on {found['device']} ({found['threads']} CPU threads): "
        f"{found['undisturbed_ms']:.1f} ms per step undisturbed, {found['measured_ms']:.1f} ms part by part",
        f"{'part':32} {'ms/step':>10} {'share':>8}",
        *(f"{row['part']:32} {row['ms']:10.2f} {100 * row['share']:6.1f} %" for row in found["parts"]),
        *(f"{name}: {r['calls']} times, {r['ms_a_call']:.1f} ms each" for name, r in found["now_and_then"].items()),
        f"{folder / 'profile.json'}; trace (ui.perfetto.dev opens it): {folder / 'trace.json.gz'}",
    ]
