"""The shipped comparisons are runnable as they stand: networks build, data are known, stores do not collide."""

from functools import cache
from pathlib import Path

import pytest
import torch

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import identity_from_config
from pipeline.config import load_config, read_yaml
from pipeline.datasets.card import read_card
from pipeline.experiments.compare import planned_rows
from pipeline.experiments.compare_config import TEACHER, CompareConfig
from pipeline.training.trainable import build_trainable
from sward.students.saved import untrained
from sward.teachers.hiera import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS = [*sorted((ROOT / "configs").glob("compare/*.yaml")), ROOT / "configs/quickstart/compare.yaml"]
CACHES = [*sorted((ROOT / "configs").glob("cache/*.yaml")), ROOT / "configs/quickstart/cache.yaml"]
each = pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@cache
def trainable(config, classes):
    width = ARCHITECTURES["tiny"]["embed_dim"]
    with torch.random.fork_rng():
        return build_trainable(untrained(config), levels(width), classes, 0)


def levels(width):
    return {f"s{4 * 2**i}": width * 2**i for i in range(4)}


@each
def test_every_method_builds_on_every_student(path):
    config = load_config(CompareConfig, path)
    classes = len(read_card(config.train.cache.dataset).classes)
    for row in planned_rows(config):
        run = row.configs[0]
        student = trainable(run.student, classes)
        channels = levels(ARCHITECTURES[run.cache.teacher.architecture]["embed_dim"])
        if run.method.uses_head:
            channels |= {"penultimate": 64, "logits": classes}
        with torch.random.fork_rng():
            run.method.build(channels, student.channels, classes, student.classifier.in_channels)


@each
def test_rows_of_a_comparison_share_data_and_budget(path):
    config = load_config(CompareConfig, path)
    rows = {row.label: row.configs[0] for row in planned_rows(config) if row.label != TEACHER}
    same = [run for label, run in rows.items() if not {"steps", "batch_size"} & config.changes.get(label, {}).keys()]
    assert len({(run.steps, run.batch_size) for run in same}) == 1
    assert len({run.cache.store for run in rows.values()}) == 1


@each
def test_figures_of_a_paper_come_with_what_differs_from_it(path):
    config = load_config(CompareConfig, path)
    assert bool(config.deviations) >= bool(config.paper)


def test_a_split_that_is_named_exists_in_its_card():
    for path in CACHES:
        values = read_yaml(path)
        assert values["split"] in read_card(values["dataset"]).splits


def test_configurations_of_different_stores_never_name_the_same_place():
    found = {}
    for path in CACHES:
        config = load_config(CacheConfig, path)
        assert found.setdefault(config.store, identity_from_config(config)) == identity_from_config(config)


def test_the_papers_budget_is_200_epochs():
    for name, images in {"clinicdb": 490, "colondb": 240}.items():
        train = read_yaml(ROOT / f"configs/train/{name}-512.yaml")
        listed = (ROOT / f"data/cvc-{name}/splits/random.train.txt").read_text().split()
        assert len(listed) == images
        assert train["steps"] == 200 * -(-images // train["batch_size"])
        assert train["per_epoch"] == "one"
