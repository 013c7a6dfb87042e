"""`cache: [a.yaml, b.yaml]`: a run on the features of two teachers, in memory, by command, killed, and compared."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml
from joined import HIERA, VIT, two_caches
from tiny import HEAD, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.cli import main
from pipeline.config import ConfigError, load_config, validate
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.results.runs import evaluate_run
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import open_store, setup
from sward.students.inputs import output_for

MWAD = {"kind": "sward", "gamma": 0, "mwad": {"gain": 2.0}}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    both = two_caches(tmp_path_factory.mktemp("two"))
    for config in both:
        extract(config)
    return both


@pytest.fixture
def files(caches, tmp_path):
    """(train.yaml with a list of two files, its configuration) of a run of five steps."""
    for name, config in zip("ab", caches, strict=True):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    config = tiny_train(tmp_path, caches, steps=5, checkpoint_every=1)
    values = config.model_dump(mode="json") | {"cache": [str(tmp_path / f"{name}.yaml") for name in "ab"]}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "train.yaml", config


def start(config):
    return setup(config, open_store(config), RunFolder(config.folder))


def terms_at(run, step):
    """Terms of the run's method on its batch of a step, at the initial student."""
    batch = next(run.stream.batches(step, step + 1))
    torch.manual_seed(0)
    run.student.train()
    return run.objective.method(output_for(run.student, batch), batch, step), batch


def test_mwad_over_both_is_the_sum_of_two_runs_terms_on_the_same_batch(caches, tmp_path):
    both, *alone = (start(tiny_train(tmp_path, cache, method=MWAD)) for cache in (caches, *caches))
    for step in (0, 3):
        found, batch = terms_at(both, step)
        (a, of_a), (b, of_b) = (terms_at(run, step) for run in alone)
        assert batch.ids == of_a.ids == of_b.ids
        assert torch.equal(batch.images, of_a.images)
        assert batch.features.keys() == {f"{n}:{k}" for n, f in ((HIERA, of_a), (VIT, of_b)) for k in f.features}
        assert found.keys() == {"attn", "value", "context"}
        assert all(torch.equal(found[name], a[name] + b[name]) for name in found)
        assert all(a[name] > 0 for name in a)


def test_parts_of_a_combination_read_the_teacher_that_they_name(caches, tmp_path):
    level = f"{VIT}:s16@2"
    parts = {"pyramid": {"kind": "fitnet", "level": f"{HIERA}:s8"}, "plain": {"kind": "radio", "level": level}}
    both = start(tiny_train(tmp_path, caches, method={"kind": "combined", "parts": parts}))
    found, _ = terms_at(both, 0)
    for label, cache in zip(parts, caches, strict=True):
        alone = parts[label] | {"level": parts[label]["level"].rpartition(":")[2]}
        terms, _ = terms_at(start(tiny_train(tmp_path, cache, method=alone)), 0)
        assert all(torch.equal(found[f"{label}.{name}"], term) for name, term in terms.items())


def test_a_teacher_of_which_nothing_is_read_is_told(caches, tmp_path, caplog):
    start(tiny_train(tmp_path, caches, method={"kind": "fitnet", "level": f"{HIERA}:s8"}))
    assert f"the method reads no level of {VIT}; name one, or combine methods" in caplog.text
    caplog.clear()
    start(tiny_train(tmp_path, caches, method={"kind": "plain"}))
    start(tiny_train(tmp_path, caches))
    assert not caplog.text


def test_a_head_reads_the_levels_of_all_teachers(caches, tmp_path):
    config = tiny_train(tmp_path, caches, method={"kind": "kd"}, head=HEAD, steps=2, signal_every=0)
    fit = train(config.head_run())
    assert set(json.loads((fit / "student.json").read_text())["teacher_channels"]) == set(config.cache.levels)
    lines = map(json.loads, (train(config) / "metrics.jsonl").read_text().splitlines())
    assert [line["term/kd"] > 0 for line in lines if "term/kd" in line] == [True, True]


def test_a_run_by_command_that_is_killed_goes_on_as_if_it_were_not(files, caches, tmp_path, capsys):
    path, config = files
    whole = train(config.model_copy(update={"runs": str(tmp_path / "whole")}))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "pipeline.cli", "train", str(path)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | threads)
    log = config.folder / "metrics.jsonl"
    while child.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 1):
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert main(["train", str(path)]) == 0
    states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (config.folder, whole)]
    for part in ("student", "method"):
        assert all(torch.equal(states[0][part][k], v) for k, v in states[1][part].items())
    assert log.read_text() == (whole / "metrics.jsonl").read_text()
    facts = json.loads((config.folder / "run.json").read_text())
    assert facts["store"] == " and ".join(cache.store for cache in caches)
    assert load_config(TrainConfig, config.folder / "config.yaml").identity() == facts["identity"] == config.identity()
    again = evaluate_run(config.folder)  # the kept student on the test images
    assert again["metrics"]["dice"] == pytest.approx(facts["test"]["dice"], abs=1e-6)


@pytest.mark.slow
def test_a_comparison_trains_all_rows_on_the_joined_stores(files, tmp_path):
    methods = {"student alone": {"kind": "plain"}, "both": MWAD}
    short = {"train": str(files[0]), "methods": methods, "seeds": [0, 1], "name": "both", "out": str(tmp_path)}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(short))
    config = load_config(CompareConfig, tmp_path / "compare.yaml", ["train.steps=2", "train.signal_every=0"])
    text = compare(config)
    assert "both" in text
    reads = {
        row["label"]: row["cost"]["reads"]
        for row in json.loads((config.folder / "comparison.json").read_text())["rows"]
    }
    assert reads == {"student alone": [], "both": list(config.train.cache.levels)}
    page = (config.folder / "report.html").read_text()
    assert page.count("teacher") > 1
    assert f"sward extract {config.folder}/cache-2.yaml" in page


def test_names_are_those_of_the_networks_and_equal_ones_are_counted(caches, tmp_path):
    assert tiny_train(tmp_path, caches).cache.names == (HIERA, VIT)
    other = caches[0].model_copy(update={"store": "elsewhere.zarr"})
    assert tiny_train(tmp_path, (*caches, other)).cache.names == (HIERA, VIT, f"{HIERA}_2")


def test_a_runs_identity_knows_the_stores_their_order_and_no_places(caches, tmp_path):
    config = tiny_train(tmp_path, caches)
    moved = [cache.model_copy(update={"store": f"x{i}.zarr", "device": "auto"}) for i, cache in enumerate(caches)]
    assert tiny_train(tmp_path, moved).identity() == config.identity()
    assert tiny_train(tmp_path, caches[::-1]).identity() != config.identity()
    assert tiny_train(tmp_path, caches[0]).identity() != config.identity()


def test_settings_of_one_store_are_named_by_its_number(files):
    config = load_config(TrainConfig, files[0], ["cache.1.store=elsewhere.zarr", "cache.0.batch_size=7"])
    assert config.caches[1].store == "elsewhere.zarr"
    assert config.caches[0].batch_size == 7
    for setting in ("cache.2.store=x", "cache.one.store=x", "cache.store=x"):
        with pytest.raises(ConfigError, match=r"is not a group of settings|is an entry of a list"):
            load_config(TrainConfig, files[0], [setting])
    with pytest.raises(ConfigError, match=r"  cache\.1\.sise: unknown key; did you mean size"):
        load_config(TrainConfig, files[0], ["cache.1.sise=3"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"split": "other"},
            r"cache: .*store\.zarr and .*vit\.zarr cannot be joined, .*: data\.split: random and other",
        ),
        ({"views": {"count": 3}}, r"views\.count: 2 and 3"),
        ({"size": (96, 96)}, r"input\.eval_size: \[64, 64\] and \[96, 96\]; input\.size"),
    ],
)
def test_configurations_of_other_views_are_refused_before_a_store_is_opened(caches, tmp_path, changes, said):
    first, second = (cache.model_dump(mode="json") for cache in caches)
    values = tiny_train(tmp_path, caches[0]).model_dump(mode="json") | {"cache": [first, second | changes]}
    with pytest.raises(ConfigError, match=said):
        validate(TrainConfig, values, "train.yaml")


def test_what_needs_one_store_says_so(caches, tmp_path):
    with pytest.raises(ValueError, match="a list joins the stores of several teachers, found 1; give one without"):
        tiny_train(tmp_path, caches[:1])
    with pytest.raises(ValueError, match="found the same store twice"):
        tiny_train(tmp_path, (caches[0], caches[0]))
    with pytest.raises(ValueError, match="teacher: online runs one teacher"):
        tiny_train(tmp_path, caches, teacher="online")
    with pytest.raises(ValueError, match=r"set head\.tensors: recomputed"):
        tiny_train(tmp_path, caches, head=HEAD | {"tensors": "appended"})


def test_a_finished_run_stays_finished_when_one_of_its_stores_is_gone(caches, tmp_path, caplog):
    copies = [cache.model_copy(update={"store": str(tmp_path / f"{i}.zarr")}) for i, cache in enumerate(caches)]
    for cache, copy in zip(caches, copies, strict=True):
        shutil.copytree(cache.store, copy.store)
    config = tiny_train(tmp_path, copies, steps=1, signal_every=0)
    folder = train(config)
    shutil.rmtree(copies[1].store)
    assert train(config) == folder
    assert "its store cannot be opened: no feature store at" in caplog.text
