"""The pass over the training records: counted once, exact, shared by seeds and processes, under its own identity."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import HEAD, tiny_train

from pipeline.cache.store import Store
from pipeline.files import read_json
from pipeline.training.loop import train
from pipeline.training.prestages import feature_pass, prestage


def config_of(folder, cache, method=None, **changes):
    values = {"steps": 3, "signal_every": 0, "name": "r", "checkpoint_every": 1} | changes
    return tiny_train(folder, cache, method={"kind": "radio", "level": "s16"} | (method or {}), **values)


def results(folder):
    return sorted((folder / "runs/shared").glob("prestage-radio-*/prestage.safetensors"))


def terms(run):
    """Of every logged step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith("term/")} for line in lines if "loss" in line]


def cells(cache, views=None):
    """(n, C) of every training record, in the order of the store."""
    store = Store(cache.store)
    records = [r for r in store.records["train"] if views is None or r.view.number < views]
    return torch.cat([store.features(r, ["s16"])["s16"].double().flatten(1).mT for r in records])


def test_mean_and_covariance_are_those_of_all_training_records(cache, tmp_path):
    train(config_of(tmp_path, cache))
    (file,) = results(tmp_path)
    found, x = load_file(file), cells(cache)
    torch.testing.assert_close(found["mean"], x.mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["covariance"], x.mT.cov(), rtol=1e-9, atol=1e-12)
    variances = ((x - found["mean"]) @ found["transform"].mT).var(0)
    torch.testing.assert_close(variances, torch.ones_like(variances), rtol=1e-8, atol=0)
    mean, std = Store(cache.store).statistics()["s16"]
    torch.testing.assert_close(found["mean"].float(), mean, rtol=1e-4, atol=1e-5)
    biased = found["covariance"].diagonal() * (1 - 1 / len(x))
    torch.testing.assert_close(biased.sqrt().float(), std, rtol=1e-4, atol=1e-5)


def test_the_student_is_trained_with_it_and_the_run_names_it(cache, tmp_path):
    folder = train(config_of(tmp_path, cache))
    (file,) = results(tmp_path)
    state = torch.load(folder / "last.ckpt", weights_only=True)["method"]
    assert torch.equal(state["method.transform"], load_file(file)["transform"].float())
    card = read_json(file.with_name("prestage.json"))
    assert read_json(folder / "run.json")["sources"] == {"prestage.radio": card["digest"]}
    assert card["records"] == len(Store(cache.store).records["train"])
    assert card["key"] == {
        "kind": "radio",
        "statistic": "phi_s",
        "level": "s16",
        "channels": state["method.mean"].numel(),
    }


def test_runs_of_other_seeds_and_losses_share_it_and_other_levels_and_views_do_not(cache, tmp_path):
    train(config_of(tmp_path, cache))
    (file,) = results(tmp_path)
    stamp = file.stat().st_mtime_ns
    train(config_of(tmp_path, cache, seed=1))
    train(config_of(tmp_path, cache, {"loss": "mse", "head": "mlp"}))
    assert results(tmp_path) == [file]
    assert file.stat().st_mtime_ns == stamp
    train(config_of(tmp_path, cache, {"level": "s8"}))
    train(config_of(tmp_path, cache, views=1))
    assert len(results(tmp_path)) == 3
    means = [load_file(f)["mean"] for f in results(tmp_path)]
    one_view = cells(cache, views=1).mean(0)
    assert any(m.shape == one_view.shape and torch.allclose(m, one_view, rtol=1e-10) for m in means)


def test_how_many_records_are_read_at_once_and_by_how_many_threads_changes_no_byte(cache, tmp_path, monkeypatch):
    train(config_of(tmp_path / "a", cache))
    monkeypatch.setattr(feature_pass, "AT_ONCE", 1)
    train(config_of(tmp_path / "b", cache, workers=0))
    (a,), (b,) = results(tmp_path / "a"), results(tmp_path / "b")
    assert a.read_bytes() == b.read_bytes()


def test_a_level_of_the_trunk_needs_no_head_where_one_is_configured(cache, tmp_path):
    train(config_of(tmp_path, cache, head=HEAD))
    (file,) = results(tmp_path)
    assert read_json(file.with_name("prestage.json"))["head"] is None


def test_the_heads_map_is_counted_too(cache, runs):
    train(config_of(runs, cache, {"level": "penultimate"}, head=HEAD))
    cards = [read_json(f.with_name("prestage.json")) for f in results(runs)]
    (card,) = [card for card in cards if card["key"]["level"] == "penultimate"]
    assert card["head"] is not None
    assert card["made"] == ["penultimate"]


def test_a_resumed_run_equals_one_that_was_not_interrupted(cache, tmp_path):
    whole = train(config_of(tmp_path / "whole", cache))
    config = config_of(tmp_path, cache)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    code = f"""
import pipeline.training.loop as loop
save, count = loop.save_checkpoint, []
def saved(run, writer, *rest):
    save(run, writer, *rest)
    writer.wait()
    raise SystemExit(7)
loop.save_checkpoint = saved
from pipeline.cli import main
main(["train", {str(tmp_path / "train.yaml")!r}])
"""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 7, child.stderr
    (file,) = results(tmp_path)
    stamp = file.stat().st_mtime_ns
    folder = train(config)
    assert file.stat().st_mtime_ns == stamp
    assert (folder / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


def test_a_stopped_pass_leaves_no_result_and_begins_again(cache, tmp_path, monkeypatch):
    class Asking:
        def __enter__(self):
            return lambda: True

        def __exit__(self, *error):
            return None

    with monkeypatch.context() as patch:
        patch.setattr(feature_pass, "stop_requests", Asking)
        with pytest.raises(KeyboardInterrupt, match=r"stopped after \d+ of \d+ records; .*begins again"):
            train(config_of(tmp_path, cache))
    assert not results(tmp_path)
    train(config_of(tmp_path, cache))
    assert len(results(tmp_path)) == 1


def test_within_a_combination_it_is_the_parts_own(cache, tmp_path):
    parts = {"r": {"kind": "radio", "level": "s16"}, "f": {"kind": "fitnet"}}
    config = tiny_train(tmp_path, cache, method={"kind": "combined", "parts": parts}, steps=2, signal_every=0)
    assert set(read_json(train(config) / "run.json")["sources"]) == {"prestage.parts.r"}


def test_a_changed_file_is_not_adopted(cache, tmp_path):
    train(config_of(tmp_path, cache))
    (file,) = results(tmp_path)
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"not what its card says; remove the folder"):
        train(config_of(tmp_path, cache, seed=1))


@pytest.mark.slow
def test_two_processes_have_the_result_and_the_losses_of_one(cache, tmp_path):
    given = {"optimizer": {"lr": 1e-5}}
    one = train(config_of(tmp_path / "1", cache, **given))
    two = train(config_of(tmp_path / "2", cache, devices=2, **given))
    (a,), (b,) = (results(tmp_path / name) for name in "12")
    for name, value in load_file(a).items():
        torch.testing.assert_close(load_file(b)[name], value, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(terms(two), terms(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_statistics_that_no_pass_counts_need_none(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(prestage, "count_records", lambda *_: pytest.fail("a pass was made"))
    train(config_of(tmp_path, cache, {"target": "channel"}))
    train(config_of(tmp_path, cache, {"target": "raw"}))
