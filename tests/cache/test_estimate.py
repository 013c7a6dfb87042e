"""`sward plan`: its sizes are those the extraction then has."""

import pytest
import yaml
from tiny import tiny_cache

from pipeline.cache.estimate import Plan, plan
from pipeline.cache.extract import extract
from pipeline.cache.inspect import inspect
from pipeline.cli import main


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_the_bytes_and_files_planned_are_those_stored(tmp_path, codec):
    config = tiny_cache(tmp_path, codec={"kind": codec})
    planned = plan(config)
    path = extract(config).path
    facts = inspect(path)
    assert planned.records == {s: n["planned"] for s, n in facts["records"].items()}
    assert planned.shards == facts["shards"]["planned"]
    assert facts["bytes"] == pytest.approx(
        planned.bytes_by_codec[codec], rel=0.05
    )  # indices and full labels come on top
    stored = [p for p in path.rglob("*") if p.is_file() and p.name not in ("zarr.json", "0000.json", ".lock")]
    assert planned.files == len(stored)


def test_the_command_says_what_it_costs_and_whether_it_pays(tmp_path, capsys):
    config = tiny_cache(tmp_path)
    (tmp_path / "cache.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["plan", str(tmp_path / "cache.yaml")]) == 0
    said = capsys.readouterr().out
    assert "17 (train 12, val 2, test 3) in 5 shards" in said
    assert "<- chosen" in said
    assert "caching pays after" in said or "caching does not pay" in said
    assert "Hiera-T → ResUNet++ 1.15×" in said


def made_up(**changes):
    values = {"records": {"train": 100, "val": 0, "test": 0}, "bytes_by_codec": {"fp16": 1000}, "shards": 1, "files": 1,
              "free_bytes": 2000, "teacher_seconds": 1.0, "read_seconds": {"fp16": 0.5}, "codec": "fp16"}  # fmt: skip
    return Plan(**(values | changes))


def test_caching_pays_once_what_it_saves_exceeds_the_extraction():
    assert made_up().break_even_runs(epochs=2) == 1.0
    assert made_up(read_seconds={"fp16": 1.5}).break_even_runs(epochs=2) == float("inf")


def test_a_store_that_leaves_less_than_a_tenth_free_does_not_fit():
    assert made_up().fits
    assert not made_up(free_bytes=1050).fits
