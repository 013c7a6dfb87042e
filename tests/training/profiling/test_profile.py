"""Profiles: parts add up to the step, every term has its backward pass, and the run is the one it would have been."""

import gzip
import json
import time
from contextlib import contextmanager

import pytest
import torch
import yaml
from tiny import tiny_train

from pipeline import console
from pipeline.cli import main
from pipeline.training import loop
from pipeline.training.loop import train
from pipeline.training.profiling.backward import last_number, owners
from pipeline.training.profiling.parts import RECORDER, Recorder, part
from sward.contracts import StudentOutput

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    """(plain run, the same with a profile over 2 steps)."""
    folder = tmp_path_factory.mktemp("profile")
    config = tiny_train(folder / "plain", cache, steps=12, eval_every=5)
    return train(config), train(config.model_copy(update={"runs": str(folder / "profiled")}), profile_steps=2)


@pytest.fixture
def recorder():
    made = Recorder(CPU)
    before = RECORDER.set(made)
    yield made
    RECORDER.reset(before)


def test_a_profile_changes_nothing_in_the_result(runs):
    plain, profiled = (torch.load(folder / "last.ckpt", weights_only=True) for folder in runs)
    for name in ("student", "method"):
        assert plain[name].keys() == profiled[name].keys()
        assert all(torch.equal(plain[name][k], profiled[name][k]) for k in plain[name])
    assert (runs[0] / "metrics.jsonl").read_text() == (runs[1] / "metrics.jsonl").read_text()


def test_the_parts_add_up_to_the_measured_step_and_the_shares_to_one(runs):
    found = json.loads((runs[1] / "profile.json").read_text())
    assert sum(row["share"] for row in found["parts"]) == pytest.approx(1)
    within = sum(row["ms"] for row in found["parts"] if row["part"] not in found["now_and_then"])
    assert within == pytest.approx(found["measured_ms"], rel=1e-6)
    assert found["first_step"] == 5
    assert found["undisturbed_ms"] > 0


def test_every_part_and_term_of_the_step_is_named(runs):
    found = json.loads((runs[1] / "profile.json").read_text())
    parts = {row["part"]: row["ms"] for row in found["parts"]}
    backward = {term for name in parts if name.startswith("backward: ") for term in name[10:].split(" + ")}
    assert backward >= {"student", "task", "attn", "value", "context", "separation", "compactness"}
    assert parts.keys() >= {"data wait", "to device, decoding", "forward: student", "forward: mwad", "forward: pdr"}
    assert parts.keys() >= {"gradient clipping", "optimiser", "evaluation", "checkpoint", "logging", "other"}
    assert parts["backward: student"] > parts["backward: task"] > 0
    assert found["now_and_then"]["evaluation"]["calls"] == 4  # two within the run, two at its end
    assert found["now_and_then"]["checkpoint"]["calls"] == 6


def test_the_trace_names_the_parts(runs):
    events = json.loads(gzip.decompress((runs[1] / "trace.json.gz").read_bytes()))["traceEvents"]
    assert {e.get("name") for e in events} >= {"forward: student", "forward: mwad", "backward", "optimiser"}


def test_the_table_shows_every_part(runs):
    lines = console.profile_lines(runs[1])
    for row in json.loads((runs[1] / "profile.json").read_text())["parts"]:
        assert any(line.startswith(f"{row['part']} ") for line in lines)


def test_the_command_prints_the_table_also_of_a_run_that_is_stopped(cache, tmp_path, monkeypatch, capsys):
    config = tiny_train(tmp_path, cache, steps=1000, signal_every=0)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    asked = iter([False] * 9 + [True])

    @contextmanager
    def after_ten_steps():
        yield lambda: next(asked)

    monkeypatch.setattr(loop, "stop_requests", after_ten_steps)
    assert main(["train", str(tmp_path / "train.yaml"), "--profile", "2"]) == 130
    shown = capsys.readouterr()
    assert "forward: student " in shown.out
    assert "trace (ui.perfetto.dev opens it): " in shown.out
    assert "stopped after step 10" in shown.err


def test_a_profile_over_no_steps_is_wrong_usage(capsys):
    with pytest.raises(SystemExit):
        main(["train", "x.yaml", "--profile", "0"])
    assert "expected a whole number from 1 on, found '0'" in capsys.readouterr().err


def test_too_few_steps_for_a_profile_are_refused_with_the_number_that_fits(cache, tmp_path):
    config = tiny_train(tmp_path, cache, steps=12)
    with pytest.raises(ValueError, match="over 20 steps takes 47 steps, the run has 12 left; give fewer: --profile 2"):
        train(config, profile_steps=20)


def test_a_parts_time_is_its_own(recorder):
    with part("outer"):
        time.sleep(0.01)
        with part("inner"):
            time.sleep(0.03)
    spent = recorder.spent[""]
    assert spent["inner"].seconds >= 0.03
    assert 0.01 <= spent["outer"].seconds < 0.03
    assert recorder.inside is None


def test_what_is_within_an_evaluation_belongs_to_it(recorder):
    with part("evaluation"), part("to device, decoding"):
        time.sleep(0.001)
    assert recorder.spent[""].keys() == {"evaluation"}
    assert recorder.spent[""]["evaluation"].calls == 1


def test_a_part_costs_microseconds_where_nobody_records():
    began = time.perf_counter()
    for _ in range(1000):
        with part("nothing"):
            pass
    assert (time.perf_counter() - began) / 1000 < 50e-6


def test_nodes_belong_to_the_terms_that_lead_to_them():
    x = torch.ones(2, 2, requires_grad=True)
    logits = x * 2
    output = StudentOutput(logits, {"s4": logits}, logits)
    last = last_number(output)
    shared = logits.exp()
    terms = {"a": shared.sum(), "b": shared.mean(), "c": logits.square().mean()}
    found = {node.name(): name for node, name in owners(terms, last).items()}
    assert found == {
        "ExpBackward0": "a + b",
        "SumBackward0": "a",
        "MeanBackward0": found["MeanBackward0"],
        "PowBackward0": "c",
    }
    assert found["MeanBackward0"] in "bc"
