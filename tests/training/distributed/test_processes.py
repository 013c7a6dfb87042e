"""Real runs by two processes (gloo): the same as by one, continued by another number, stopped and ended together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml
from pydantic import ValidationError

from flows import verb_process
from pipeline.results.runs import evaluate_run
from pipeline.training.distributed import processes
from pipeline.training.loop import Interrupted, train
from sward.objective import NonFiniteError


def tiny_train(folder, cache, **changes):
    """Six steps in the usual order of maps; over these, a channels-last student's rounding grows to 2e-5 of a term."""
    return tiny.tiny_train(folder, cache, **{"channels_last": False} | changes)


LONG = {"steps": 3000, "checkpoint_every": 5, "signal_every": 0, "optimizer": {"lr": 1e-6}}


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    """Six steps by one process."""
    return train(tiny_train(tmp_path_factory.mktemp("alone"), cache))


def lines(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.is_file() else []


def facts(folder):
    return json.loads((folder / "run.json").read_text())


def assert_same_losses(folder, other):
    """Of every logged step, each term and its share of the gradient.

    A first step's rounding, 1e-7, grows to 6e-5 in six steps on a processor without AVX-512.
    """
    for a, b in zip(lines(folder), lines(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name.startswith(("loss", "lr", "term/", "share/")):
                assert a[name] == pytest.approx(b[name], rel=2e-4, abs=2e-4), (a["step"], name)


def stop_after(step, config):
    """Train in one process up to ``step``, from wherever it stands."""

    def progress(done, steps, logged):
        if done == step - 1:  # seen in the next step, with its gradient's norm
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"after step {step}"):
        train(config, progress)


def saved(config, folder):
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def test_a_run_begun_by_one_process_and_continued_by_two_has_the_losses_of_one(cache, alone, tmp_path):
    """Continued from where a flow runs it: as a child, with a setting."""
    config = tiny_train(tmp_path, cache)
    stop_after(3, config)
    shown = []
    verb_process.run("train", saved(config, tmp_path), ["devices=2"], shown.append)
    assert any(line.startswith("tiny: 6/6 steps") for line in shown)
    assert facts(config.folder)["processes"] == 2
    assert facts(config.folder)["status"] == "finished"
    assert_same_losses(config.folder, alone)
    found = json.loads((config.folder / "evaluation.json").read_text())
    assert found == evaluate_run(config.folder)
    assert len(list((config.folder / "predictions").glob("*.png"))) == len(found["per_image"])


def test_the_number_of_processes_is_no_part_of_a_runs_identity(cache, tmp_path):
    assert tiny_train(tmp_path, cache, devices=2, nodes=2).identity() == tiny_train(tmp_path, cache).identity()


def test_a_batch_that_cannot_be_shared_evenly_is_refused(cache, tmp_path):
    with pytest.raises(ValidationError, match=r"batch_size is 4.*devices × nodes = 3 × 1; make it a multiple of 3"):
        tiny_train(tmp_path, cache, devices=3)
    with pytest.raises(ValidationError, match=r"head\.batch_size is 3"):
        tiny_train(tmp_path, cache, devices=2, head={"steps": 3, "batch_size": 3})


def test_what_takes_one_process_or_another_start_says_so(cache, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--profile times the steps of one process"):
        train(tiny_train(tmp_path, cache, devices=2), profile_steps=2)
    with pytest.raises(ValueError, match="torchrun --nnodes 2 --nproc-per-node 1"):
        train(tiny_train(tmp_path, cache, nodes=2))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="4 processes were started"):
        train(tiny_train(tmp_path, cache, devices=2))


METHODS = {
    "gathered, with adapters": {"method": {"kind": "mgd", "level": "s32"}},
    "batch norm in an adapter": {"method": {"kind": "cwd", "level": "s32", "aligner": "conv_bn_relu"}},
    "trained teacher side": {"method": {"kind": "sward", "mwad": {"teacher_proj": "aux", "gain": 2.0}}},
    "balanced gradients": {"method": {"kind": "fitnet", "balance": {"kind": "gradient", "every": 2}}},
    "dropout, timm's layers": {"student": {"kind": "deeplabv3"}, "steps": 3},
    "channels last": {"student": {"kind": "deeplabv3"}, "steps": 3, "channels_last": True},
    "uneven batches": {"batch_size": 10, "per_epoch": "one", "views": 2},
    "online": {"teacher": "online"},
    "records without labels, unevenly": {"labels": 0.5, "unlabelled": 0.6, "batch_size": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_have_the_losses_of_one_from_the_start(cache, tmp_path, name):
    given = {"optimizer": {"lr": 1e-5}} | METHODS[name]
    one, two = (tiny_train(tmp_path / str(n), cache, devices=n, **given) for n in (1, 2))
    assert_same_losses(train(two), train(one))


@pytest.mark.slow
def test_an_error_in_the_processes_is_raised_as_itself(cache, tmp_path):
    config = tiny_train(tmp_path, cache, devices=2, optimizer={"lr": 1e30, "clip_norm": None})
    with pytest.raises(NonFiniteError, match="not finite"):
        train(config)


def started(config, folder):
    command = [sys.executable, "-m", "pipeline.cli", "train", str(saved(config, folder))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for_step(run, folder, step):
    deadline = time.monotonic() + 300
    while run.poll() is None and not any(line["step"] >= step for line in lines(folder)):
        assert time.monotonic() < deadline, "no step in time"
        time.sleep(0.05)


def workers(pid):
    """The processes that ``pid`` started and that torch runs in."""
    found = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent(p) == pid]
    return sorted(p for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes())


def parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.mark.slow
def test_two_processes_stop_together_when_asked_and_one_continues(cache, tmp_path):
    config = tiny_train(tmp_path, cache, devices=2, **LONG)
    run = started(config, tmp_path)
    wait_for_step(run, config.folder, 7)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "stopped after step" in said
    assert facts(config.folder)["status"] == "stopped"
    done = lines(config.folder)[-1]["step"]
    alone = config.model_copy(update={"devices": 1})
    later = done + 10 - done % 5  # two steps and more, so that the one before it is seen
    stop_after(later, alone)
    whole = alone.model_copy(update={"runs": str(tmp_path / "whole")})
    stop_after(later, whole)
    assert_same_losses(alone.folder, whole.folder)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_its_name(cache, tmp_path):
    config = tiny_train(tmp_path, cache, devices=2, **LONG)
    run = started(config, tmp_path)
    wait_for_step(run, config.folder, 3)
    both = workers(run.pid)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    _, said = run.communicate(timeout=processes.GRACE + 60)
    assert run.returncode == 1
    assert "sward train: process 1 of 2 was ended by SIGKILL" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)


@pytest.mark.slow
def test_a_parent_that_dies_takes_its_processes_along_with_a_checkpoint(cache, tmp_path):
    config = tiny_train(tmp_path, cache, devices=2, **LONG)
    run = started(config, tmp_path)
    wait_for_step(run, config.folder, 3)
    both = workers(run.pid)
    run.kill()
    deadline = time.monotonic() + processes.GRACE + 60
    while any(Path(f"/proc/{pid}").exists() for pid in both):
        assert time.monotonic() < deadline, "the processes outlive their parent"
        time.sleep(0.1)
    run.communicate()
    assert facts(config.folder)["status"] == "stopped"


@pytest.mark.slow
def test_torchrun_on_two_nodes_has_the_losses_of_one_process(cache, alone, tmp_path):
    config = tiny_train(tmp_path, cache, nodes=2)
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:29417"]
    command = [sys.executable, "-m", "torch.distributed.run", *common, "--local-addr", "127.0.0.1"]
    verb = ["-m", "pipeline.cli", "train", str(saved(config, tmp_path))]
    nodes = [
        subprocess.Popen([*command, *verb], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "12"
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert_same_losses(config.folder, alone)
