"""Pre-stages and warm-ups: learned once, kept under their own identity, continued after a stop, shared by runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny import HEAD, tiny_train

from pipeline.files import read_json
from pipeline.training import checkpoint
from pipeline.training.loop import train
from pipeline.training.prestages import prestage

SHORT = {"steps": 4, "batch_size": 4}


def config_of(runs, cache, kind="maskd", prestage=SHORT, **changes):
    values = {"steps": 2, "signal_every": 0, "name": "x"} | changes
    return tiny_train(runs, cache, method={"kind": kind, "prestage": prestage}, head=HEAD, **values)


def cards(runs):
    return {p.parent.name: read_json(p) for p in (runs / "runs/shared").glob("prestage-*/prestage.json")}


@pytest.mark.parametrize("kind", ["maskd", "freekd"])
def test_runs_of_other_seeds_share_it_and_runs_with_other_settings_do_not(kind, cache, runs):
    before = set(cards(runs))
    first = train(config_of(runs, cache, kind))
    (name,) = set(cards(runs)) - before
    stamp = (runs / "runs/shared" / name / "prestage.safetensors").stat().st_mtime_ns
    second = train(config_of(runs, cache, kind, seed=1))
    assert set(cards(runs)) - before == {name}
    assert (runs / "runs/shared" / name / "prestage.safetensors").stat().st_mtime_ns == stamp
    adopted = {read_json(f / "run.json")["sources"][f"prestage.{kind}"] for f in (first, second)}
    assert adopted == {cards(runs)[name]["digest"]}
    train(config_of(runs, cache, kind, prestage=SHORT | {"lr": 0.05}))
    assert len(set(cards(runs)) - before) == 2


def test_its_card_says_what_it_was_made_from_and_how_its_terms_went(cache, runs):
    train(config_of(runs, cache))
    card = next(iter(cards(runs).values()))
    assert card["settings"]["steps"] == 4
    assert card["key"]["kind"] in ("maskd", "freekd")
    assert len(card["store"]) == 64
    assert [line["step"] for line in card["losses"]] == [0, 1, 2, 3]
    assert all(len(line) > 1 for line in card["losses"])


def test_the_student_is_trained_with_what_was_learned(cache, runs):
    folder = train(config_of(runs, cache))
    state = torch.load(folder / "last.ckpt", weights_only=True)["method"]
    (learned,) = [
        load_file(runs / "runs/shared" / name / "prestage.safetensors")
        for name, card in cards(runs).items()
        if card["digest"] == read_json(folder / "run.json")["sources"]["prestage.maskd"]
    ]
    for value in learned.values():
        assert any(v.shape == value.shape and torch.equal(v, value) for v in state.values())


def test_stopped_and_continued_equals_uninterrupted(cache, runs, tmp_path):
    long = {"steps": 400, "batch_size": 4}
    config = config_of(tmp_path, cache, prestage=long)
    train(config.head_run())
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "pipeline.cli", "train", str(tmp_path / "train.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums round as they do here
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    while not list((tmp_path / "runs/shared").glob("prestage-*")):
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130, error
    assert b"pre-stage stopped after step" in error
    folder = train(config)
    (again,) = cards(tmp_path).values()
    whole = tmp_path / "whole"
    train(config_of(whole, cache, prestage=long).head_run())
    train(config_of(whole, cache, prestage=long))
    (once,) = cards(whole).values()
    assert again["digest"] == once["digest"]
    assert read_json(folder / "run.json")["status"] == "finished"


def warm(folder, cache, **method):
    values = {"kind": "heteroakd", "warmup_steps": 4} | method
    changes = {"steps": 6, "checkpoint_every": 100, "signal_every": 0, "name": "w"}
    return tiny_train(folder, cache, method=values, head=HEAD, **changes)


def test_a_run_that_continues_from_a_shared_warm_up_equals_one_that_did_not(cache, runs, tmp_path):
    train(warm(runs, cache))
    (shared,) = (runs / "runs/shared").glob("warmup-heteroakd-*.ckpt")
    stamp = shared.stat().st_mtime_ns
    continued = train(warm(runs, cache, tau=4.0))
    assert shared.stat().st_mtime_ns == stamp
    logged = [json.loads(line)["step"] for line in (continued / "metrics.jsonl").read_text().splitlines()]
    assert min(logged) == 5
    train(warm(tmp_path, cache).head_run())
    alone = train(warm(tmp_path, cache, tau=4.0))
    assert (continued / "student.safetensors").read_bytes() == (alone / "student.safetensors").read_bytes()


def test_runs_share_a_warm_up_only_where_nothing_before_its_end_differs(cache, tmp_path):
    file = checkpoint.warm_up_file(warm(tmp_path, cache))
    same = [warm(tmp_path, cache, **m) for m in ({"tau": 2.0}, {"weight": 3.0}, {"evaluation": "space"})]
    other = [warm(tmp_path, cache, **m) for m in ({"relu": True}, {"supervision": "ce"}, {"level": "s16"}, {"kd": 0.0})]
    assert {checkpoint.warm_up_file(config) for config in same} == {file}
    assert file not in {checkpoint.warm_up_file(config) for config in other}
    assert checkpoint.warm_up_file(warm(tmp_path, cache).model_copy(update={"eval_every": 2})) is None
    assert checkpoint.warm_up_file(tiny_train(tmp_path, cache)) is None


def test_two_runs_at_once_learn_it_once(cache, runs, tmp_path):
    config = config_of(tmp_path, cache)
    train(config.head_run())
    files = []
    for seed in (0, 1):
        files.append(tmp_path / f"{seed}.yaml")
        files[-1].write_text(yaml.safe_dump(config.model_copy(update={"seed": seed}).model_dump(mode="json")))
    command = [sys.executable, "-m", "pipeline.cli", "train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    children = [subprocess.Popen([*command, str(f)], env=environment, stderr=subprocess.PIPE) for f in files]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    (card,) = cards(tmp_path).values()
    digests = [read_json(f)["sources"]["prestage.maskd"] for f in (tmp_path / "runs").glob("x-*/run.json")]
    assert digests == [card["digest"]] * 2
    assert sum(b"waiting for another run" in error for error in errors) <= 1


def test_one_that_was_finished_meanwhile_is_not_learned_again(cache, runs, tmp_path, monkeypatch):
    train(config_of(runs, cache, seed=2))
    learned = []
    monkeypatch.setattr(prestage, "train_prestage", lambda *arguments: learned.append(arguments))
    is_file, asked = Path.is_file, []

    def late(path):  # the card comes into being between the first look and the lock
        if path.name == "prestage.json" and not asked:
            return bool(asked.append(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", late)
    train(config_of(runs, cache, seed=3))
    assert asked
    assert not learned


def test_a_changed_file_is_not_adopted(cache, tmp_path):
    config = config_of(tmp_path, cache)
    train(config.head_run())
    train(config)
    (file,) = (tmp_path / "runs/shared").glob("prestage-*/prestage.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"not what its card says; remove the folder"):
        train(config_of(tmp_path, cache, seed=1))


def test_two_parts_of_one_kind_each_have_their_own(cache, runs):
    parts = {name: {"kind": "maskd", "tokens": n, "prestage": SHORT} for name, n in (("a", 3), ("b", 4))}
    config = tiny_train(runs, cache, method={"kind": "combined", "parts": parts}, head=HEAD, steps=2, signal_every=0)
    sources = read_json(train(config) / "run.json")["sources"]
    assert sources["prestage.parts.a"] != sources["prestage.parts.b"]


def test_a_warm_up_that_never_ends_is_refused_also_within_a_combination(cache, tmp_path):
    with pytest.raises(ValidationError, match=r"warmup_steps is 6, the run has 6 steps"):
        warm(tmp_path, cache, warmup_steps=6)
    late = {"kind": "combined", "parts": {"h": {"kind": "heteroakd", "warmup_steps": 9}}}
    with pytest.raises(ValidationError, match=r"warmup_steps is 9"):
        tiny_train(tmp_path, cache, method=late)


def test_left_out_the_warm_up_is_a_tenth_of_the_run(cache, tmp_path):
    config = tiny_train(tmp_path, cache, method={"kind": "heteroakd"}, steps=50)
    assert config.method.for_steps(50).warmup_steps == 5
    assert config.method.warm_up(50)[0] == 5


def test_a_continued_run_counts_the_time_of_its_warm_up(cache, runs):
    train(warm(runs, cache))
    (shared,) = (runs / "runs/shared").glob("warmup-heteroakd-*.ckpt")
    spent = torch.load(shared, weights_only=True)["facts"]["seconds"]
    assert read_json(train(warm(runs, cache, weight=2.0)) / "run.json")["seconds"] > spent > 0
