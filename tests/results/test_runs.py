"""Finished runs are read back whole; students need nothing but their two files."""

import shutil

import pytest
import torch

from pipeline.cli import main
from pipeline.files import read_json, write_json
from pipeline.results.runs import RunError, evaluate_run, load_run, load_student, rebuild


def test_a_run_is_read_back(compared):
    run = load_run(compared.run("SWARD", 1))
    assert (run.config.seed, run.config.method.kind, len(run.evaluation["per_image"])) == (1, "sward", 3)
    assert run.log[-1]["step"] == run.config.steps


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no run.json; give a folder"):
        load_run(tmp_path)


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(compared, tmp_path):
    shutil.copytree(compared.run("SWARD"), tmp_path / "run")
    write_json(tmp_path / "run/run.json", read_json(tmp_path / "run/run.json") | {"status": "running"})
    with pytest.raises(
        RunError, match=r"is running, not finished; continue it: (mv \S+ \S+ && )?sward train .*config.yaml"
    ):
        load_run(tmp_path / "run")


def test_a_run_that_lost_files_is_refused_by_name(compared, tmp_path):
    shutil.copytree(compared.run("SWARD"), tmp_path / "run")
    (tmp_path / "run/evaluation.json").unlink()
    with pytest.raises(RunError, match=r"lacks evaluation\.json"):
        load_run(tmp_path / "run")


def test_a_student_needs_only_its_two_files(compared, tmp_path):
    for name in ("student.json", "student.safetensors"):
        shutil.copy(compared.run("SWARD") / name, tmp_path)
    student, card = load_student(tmp_path)
    assert not student.training
    assert student(torch.zeros(1, 3, *card["size"])).logits.shape[1] == len(card["classes"])


def test_weights_of_another_student_are_refused(compared, tmp_path):
    shutil.copy(compared.run("teacher") / "student.safetensors", tmp_path)
    shutil.copy(compared.run("SWARD") / "student.json", tmp_path)
    with pytest.raises(RunError, match=r"does not fit student.json"):
        load_student(tmp_path)


def test_rebuilding_a_pretrained_student_fetches_nothing(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("downloads")

    monkeypatch.setattr("socket.socket.connect", refuse)
    pair = {"kind": "smp", "architecture": "linknet", "encoder": "resnet18", "encoder_weights": "imagenet"}
    assert rebuild({"student": pair, "classes": ["a", "b"]}).num_classes == 2


def test_evaluating_again_gives_the_runs_own_numbers(compared, tmp_path):
    for label in ("teacher", "SWARD"):
        write_json(tmp_path / "again.json", evaluate_run(compared.run(label)))
        assert read_json(tmp_path / "again.json") == load_run(compared.run(label)).evaluation


def test_the_command_finds_a_run_without_its_hash_and_prints_the_metrics_of_a_subset(compared, capsys):
    run = compared.run("SWARD")
    assert main(["evaluate", str(run.with_name(run.name[:-11])), "--subset", "val"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run}:"
    assert lines[1].split() == ["val"]
    assert f"mDice % {100 * load_run(run).facts['best_val']:.2f}" in [" ".join(line.split()) for line in lines]


def test_a_run_of_a_store_that_has_changed_is_not_evaluated(compared, tmp_path):
    shutil.copytree(compared.run("SWARD"), tmp_path / "run")
    write_json(tmp_path / "run/run.json", read_json(tmp_path / "run/run.json") | {"content_id": "1" * 64})
    with pytest.raises(RunError, match="content id"):
        evaluate_run(tmp_path / "run")
