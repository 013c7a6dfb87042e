"""Checkpoints behind the training: what is written is the moment of asking, whole, in order, and failures are told."""

import threading

import pytest
import torch
from torch import nn

from pipeline.files import read_json, write_json
from pipeline.training import checkpoint
from pipeline.training.background_checkpoints import CheckpointWriter
from pipeline.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "run.json", {"status": "running", "seconds": 0.0})
    return RunFolder(tmp_path)


@pytest.fixture
def parts():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(student.parameters())
    student(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {"student": student, "method": nn.Module(), "optimizer": optimizer, "step": 1, "facts": {"store": "a"}}


def test_a_checkpoint_holds_the_moment_it_was_asked_for(folder, parts, monkeypatch):
    go = threading.Event()
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *a: (go.wait(10), write(*a)))
    before = parts["student"][0].weight.detach().clone()
    with CheckpointWriter(folder) as writer:
        writer.save(folder.last, **parts)
        with torch.no_grad():
            parts["student"][0].weight.zero_()
        parts["optimizer"].step()
        assert not folder.last.exists()  # the loop went on before it was written
        go.set()
    assert torch.equal(torch.load(folder.last, weights_only=True)["student"]["0.weight"], before)


def test_a_checkpoint_written_behind_equals_one_written_at_once(folder, parts, tmp_path):
    with CheckpointWriter(folder) as writer:
        writer.save(folder.last, **parts)
    checkpoint.save(tmp_path / "at-once.ckpt", **parts)
    ours, theirs = (torch.load(p, weights_only=True) for p in (folder.last, tmp_path / "at-once.ckpt"))
    assert ours.keys() == theirs.keys()
    assert ours["student"]._metadata == parts["student"].state_dict()._metadata
    torch.testing.assert_close(ours["optimizer"], theirs["optimizer"], rtol=0, atol=0)
    fresh = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    loaded = {"student": fresh, "method": nn.Module(), "optimizer": torch.optim.AdamW(fresh.parameters())}
    assert checkpoint.load(folder.last, **loaded, expected={"store": "a"})["step"] == 1
    assert all(torch.equal(v, parts["student"].state_dict()[k]) for k, v in fresh.state_dict().items())


def test_the_last_one_asked_for_is_the_one_on_the_disk(folder, parts):
    with CheckpointWriter(folder) as writer:
        for step in range(1, 6):
            writer.save(folder.last, **parts | {"step": step})
    assert torch.load(folder.last, weights_only=True)["step"] == 5


def test_the_time_up_to_the_checkpoint_is_counted_once_it_is_written(folder, parts):
    with CheckpointWriter(folder) as writer:
        writer.save(folder.last, **parts)
    assert read_json(folder.facts)["seconds"] >= 0
    assert read_json(folder.facts)["status"] == "running"


@pytest.mark.parametrize("when", ["at the next checkpoint", "at the end"])
def test_what_goes_wrong_behind_is_told(folder, parts, monkeypatch, when):
    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "write", full)

    def go_on():
        with CheckpointWriter(folder) as writer:
            writer.save(folder.last, **parts)
            if when == "at the next checkpoint":
                writer.save(folder.last, **parts)
                pytest.fail("went on")

    with pytest.raises(OSError, match="no space left"):
        go_on()


def test_an_error_of_the_loop_is_not_hidden_and_the_file_is_still_written(folder, parts):
    def stop():
        with CheckpointWriter(folder) as writer:
            writer.save(folder.last, **parts)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert folder.last.is_file()


def test_a_write_that_fails_half_way_leaves_the_checkpoint_before_it(folder, parts, monkeypatch):
    def torn(state, file):
        file.write(b"half of it")
        raise OSError("no space left")

    def write_twice():
        with CheckpointWriter(folder) as writer:
            writer.save(folder.last, **parts)
            writer.wait()
            monkeypatch.setattr(torch, "save", torn)
            writer.save(folder.last, **parts | {"step": 2})

    with pytest.raises(OSError, match="no space left"):
        write_twice()
    monkeypatch.undo()
    assert torch.load(folder.last, weights_only=True)["step"] == 1
    assert [p.name for p in folder.path.iterdir() if "partial" in p.name] == []
