"""Optimisers, epochs, accumulation, running means, early stopping and folds do what their names say."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.files import read_json
from pipeline.training import checkpoint, loop
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.training.optimizer import OptimizerConfig, build_optimizer

PLAIN = {"method": {"kind": "plain"}, "signal_every": 0}


def weights(folder):
    return load_file(folder / "student.safetensors")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["adamw", "adam", "nadam", "radam", "adamax", "rmsprop", "sgd"])
def test_every_optimiser_takes_a_step_down(kind):
    parameter = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = build_optimizer(OptimizerConfig(kind=kind, lr=0.1), [parameter])
    for _ in range(5):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    assert abs(parameter.item()) < 3


@pytest.mark.parametrize("kind", ["adamw", "adam", "nadam", "radam", "adamax", "rmsprop", "sgd"])
def test_on_a_gpu_the_update_is_one_kernel_where_torch_has_one(kind):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    parameter = torch.nn.Parameter(torch.ones(3))
    fused = [build_optimizer(OptimizerConfig(kind=kind), [parameter], d).defaults.get("fused") for d in (gpu, cpu)]
    assert fused == [True if kind in ("adamw", "adam", "sgd") else None, None]


@pytest.mark.parametrize("saved_on", ["cuda", "cpu"])
def test_a_checkpoint_continues_on_another_kind_of_device_in_that_ones_form(tmp_path, saved_on):
    """Fused and plain update agree, and a state loaded from one kind does not turn the other's form on or off."""
    other = {"cuda": "cpu", "cpu": "cuda"}[saved_on]
    layers, optimizers = [torch.nn.Linear(3, 2) for _ in range(2)], []
    layers[1].load_state_dict(layers[0].state_dict())
    for layer, device in zip(layers, (saved_on, other), strict=True):
        optimizers.append(build_optimizer(OptimizerConfig(), layer.parameters(), torch.device(device)))
    for _ in range(2):
        layers[0](torch.ones(1, 3)).sum().backward()
        optimizers[0].step()
    state = {"method": torch.nn.Module(), "student": layers[0], "optimizer": optimizers[0]}
    checkpoint.save(tmp_path / "last.ckpt", **state, step=2, facts={})
    state |= {"student": layers[1], "optimizer": optimizers[1]}
    checkpoint.load(tmp_path / "last.ckpt", **state, expected={})
    assert optimizers[1].param_groups[0]["fused"] == (True if other == "cuda" else None)
    for layer, optimizer in zip(layers, optimizers, strict=True):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


def test_settings_that_came_later_leave_older_identities_alone(cache, tmp_path):
    config = tiny_train(tmp_path, cache)
    stated = {"task": {"ce": 1}, "fold": None, "accumulate": 1, "ema": 0, "patience": 0, "eval_every": 0}
    assert tiny_train(tmp_path, cache, **stated).identity() == config.identity()
    for changed in ({"task": {"dice": 1}}, {"ema": 0.9}, {"accumulate": 2}, {"eval_every": 2}, {"patience": 1}):
        assert tiny_train(tmp_path, cache, **changed).identity() != config.identity()


def test_a_run_of_epochs_counts_its_steps_and_keeps_its_name(cache, tmp_path):
    config = tiny_train(tmp_path, cache, **PLAIN, steps=0, epochs=2)
    counted = config.with_steps(12)
    assert (counted.steps, counted.folder) == (6, config.folder)
    folder = train(config)
    assert folder == config.folder
    assert lines(folder)[-1]["step"] == 6
    assert train(config) == folder


def test_a_run_without_a_length_is_refused(cache, tmp_path):
    with pytest.raises(ValidationError, match=r"give steps: 1000, or epochs: 20"):
        tiny_train(tmp_path, cache, steps=0)


def test_a_head_that_sees_few_epochs_is_warned_of(cache, tmp_path, caplog):
    train(tiny_train(tmp_path, cache, head={"steps": 3}).head_run())
    assert "1.0 times only" in caplog.text
    assert tiny_train(tmp_path, cache, head={}).head_run().with_steps(12).steps == 60


def test_accumulated_batches_have_the_gradient_of_their_mean(cache, tmp_path, monkeypatch):
    """Without batch statistics and draws two batches of two are one of four."""
    seen = []
    monkeypatch.setattr(loop, "clip", lambda run, *rest: seen.append([p.grad.clone() for p in run.parameters]))
    config = tiny_train(tmp_path, cache, **PLAIN, steps=1, batch_size=2, accumulate=2)
    train(config)
    single = []
    monkeypatch.setattr(loop, "clip", lambda run, *rest: single.append([p.grad.clone() for p in run.parameters]))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    train(tiny_train(tmp_path / "one", cache, **PLAIN, steps=2, batch_size=2))
    for total, a, b in zip(seen[0], *single, strict=True):
        torch.testing.assert_close(total, (a + b) / 2, rtol=1e-3, atol=1e-5)


def test_the_kept_student_is_the_running_mean_of_the_weights(cache, tmp_path, monkeypatch):
    states = []
    step = torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        step(self, *args, **kwargs)
        states.append([p.detach().clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    folder = train(tiny_train(tmp_path, cache, **PLAIN, steps=4, ema=0.5))
    mean = states[0]
    for later in states[1:]:
        mean = [0.5 * m + 0.5 * p for m, p in zip(mean, later, strict=True)]
    kept = weights(folder)
    named = [kept[name] for name in kept if "running" not in name and "num_batches" not in name]
    assert sorted(round(float(m.sum()), 4) for m in mean) == pytest.approx(
        sorted(round(float(m.sum()), 4) for m in named), abs=2e-4
    )


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"accumulate": 2, "batch_size": 2}, {"optimizer": {"kind": "sgd"}}])
def test_stopped_and_continued_equals_uninterrupted(cache, tmp_path, monkeypatch, changes):
    whole = train(tiny_train(tmp_path / "a", cache, **PLAIN, **changes))
    fit = loop.fit

    def stops(run, first, writer, stopping, progress):
        return fit(run, first, writer, lambda: True, progress)

    config = tiny_train(tmp_path / "b", cache, **PLAIN, **changes)
    with monkeypatch.context() as stopped:
        stopped.setattr(loop, "fit", stops)
        with pytest.raises(loop.Interrupted):
            train(config)
    again = train(config)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True))
    assert lines(whole) == lines(again)


def test_it_stops_when_validation_no_longer_improves(cache, tmp_path, monkeypatch):
    from pipeline.training import validation

    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    evaluate = validation.evaluate

    def scored(student, store, subset, *args, **kwargs):
        found = evaluate(student, store, subset, *args, **kwargs)
        if subset == "val":
            found["metrics"]["dice"] = next(scores)
        return found

    monkeypatch.setattr(validation, "evaluate", scored)
    folder = train(tiny_train(tmp_path, cache, **PLAIN, steps=9, eval_every=1, patience=2))
    facts = read_json(folder / "run.json")
    assert (facts["best_val"], facts["best_step"]) == (0.6, 2)
    assert max(line["step"] for line in lines(folder)) == 4


def test_validation_happens_ten_times_in_a_longer_run_unless_stated(cache, tmp_path):
    assert tiny_train(tmp_path, cache).validates_every == 0
    assert tiny_train(tmp_path, cache, steps=2000).validates_every == 200
    assert tiny_train(tmp_path, cache, steps=2000, eval_every=0).validates_every == 0


def test_a_run_of_a_fold_is_tested_on_it(tmp_path):
    cache = tiny_cache(tmp_path, split="folds")
    extract(cache)
    tested = []
    for fold in range(3):
        folder = train(tiny_train(tmp_path, cache, **PLAIN, steps=2, fold=fold))
        rows = read_json(folder / "evaluation.json")["per_image"]
        assert all(row["group"] == row["id"] and 0 <= row["size"] < 1 for row in rows)
        tested += [row["id"] for row in rows]
    assert len(tested) == len(set(tested)) == 11


def test_the_identity_of_an_old_configuration_is_the_one_on_record():
    """Saved runs of earlier versions are found again."""
    from pathlib import Path

    from pipeline.config import load_config

    runs = sorted((Path(__file__).resolve().parents[2] / "results").glob("*/runs/*/config.yaml"))
    assert runs
    for file in runs:
        assert load_config(TrainConfig, file).identity() == read_json(file.parent / "run.json")["identity"], file
