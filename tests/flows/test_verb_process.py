"""The process of a verb: its lines, its errors, and that it never outlives its parent."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import verb_process

Verb = Callable[[str], None]
ROOT = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    """Running, and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Verb:
    """Replaces the command by a script of the test's own, behind the same leash."""

    def use(script: str) -> None:
        module = tmp_path / "pipeline" / "cli.py"
        module.parent.mkdir()
        module.write_text("import os, signal, sys, time\ndef main(arguments):\n" + textwrap.indent(script, "    "))
        (module.parent / "__init__.py").touch()
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
        monkeypatch.chdir(tmp_path)

    return use


def test_every_line_of_both_streams_is_shown_and_the_last_ones_returned(verb: Verb) -> None:
    verb("print(arguments)\nprint('half … done', file=sys.stderr)\nprint('end')\nreturn 0")
    seen: list[str] = []
    assert verb_process.run("extract", Path("c.yaml"), ["a.b=1", "size=[1, 2]"], seen.append) == seen
    assert seen == [str(["extract", "c.yaml", "--set", "a.b=1", "--set", "size=[1, 2]"]), "half … done", "end"]


def test_a_line_is_shown_when_it_is_printed_not_at_the_end(verb: Verb) -> None:
    verb("print('now')\ntime.sleep(1)\nreturn 0")
    times: list[float] = []
    verb_process.run("extract", Path("c"), [], lambda line: times.append(time.monotonic()))
    assert time.monotonic() - times[0] > 0.9


def test_a_refusal_carries_the_verbs_own_message_of_several_lines() -> None:
    with pytest.raises(
        verb_process.ChildFailed, match=r"^sward extract: .*CacheConfig:\n(.*\n)*  tacher: unknown key"
    ) as found:
        verb_process.run("extract", ROOT / "configs/quickstart/cache.yaml", ["tacher=3"], lambda line: None)
    assert not isinstance(found.value, verb_process.TransientError)


def test_a_verb_that_ends_without_message_is_described_by_its_last_lines(verb: Verb) -> None:
    verb("print('some words')\nraise SystemExit(1)")
    with pytest.raises(verb_process.ChildFailed, match="some words"):
        verb_process.run("train", Path("c"), [], lambda line: None)


def test_a_killed_verb_is_named_with_its_signal(verb: Verb) -> None:
    verb("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(verb_process.ChildFailed, match="ended by SIGKILL; what is finished is kept"):
        verb_process.run("train", Path("c"), [], lambda line: None)


def test_a_stopped_verb_is_told_apart_from_a_failed_one(verb: Verb) -> None:
    verb("return 130")
    with pytest.raises(verb_process.Stopped, match="a new run continues"):
        verb_process.run("train", Path("c"), [], lambda line: None)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, verb_process.TransientError),
        (errno.ESTALE, verb_process.TransientError),
        (errno.ENOSPC, verb_process.ChildFailed),
        (errno.ENOENT, verb_process.ChildFailed),
    ],
)
def test_only_input_output_that_may_pass_is_transient(number: int, kind: type) -> None:
    text = f"sward extract: {OSError(number, os.strerror(number), 'x.zarr')}"
    assert type(verb_process.failure("extract", 1, ["noise", text])) is kind


def test_an_error_while_watching_stops_the_verb_which_may_finish_its_work(verb: Verb, tmp_path: Path) -> None:
    verb("""
def stop(number, frame):
    open('checkpoint', 'w').close()
    raise SystemExit(130)
signal.signal(signal.SIGTERM, stop)
print(os.getpid())
time.sleep(60)
""")
    pids: list[int] = []

    def cancelled(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verb_process.run("train", Path("c"), [], cancelled)
    assert not alive(pids[0])
    assert (tmp_path / "checkpoint").exists()


def test_a_verb_that_ignores_the_request_is_killed(verb: Verb) -> None:
    verb("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(os.getpid())\ntime.sleep(60)")
    pids: list[int] = []

    def cancelled(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verb_process.run("train", Path("c"), [], cancelled, grace=0.2)
    assert not alive(pids[0])


PARENT = "from flows import verb_process\nverb_process.run('train', 'c', [], lambda line: print(line, flush=True))"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_silent_verb_dies_with_its_killed_parent_and_writes_its_checkpoint_first(verb: Verb, tmp_path: Path) -> None:
    verb("""
def stop(number, frame):
    print('into a pipe nobody reads')
    open('checkpoint', 'w').close()
    raise SystemExit(130)
signal.signal(signal.SIGTERM, stop)
print(os.getpid())
while True: time.sleep(1)
""")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(pid))
    assert (tmp_path / "checkpoint").exists()
