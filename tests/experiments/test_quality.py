"""The quality curve: only views and codec differ between its points; figures, table and page come from saved runs."""

import re

import pytest
import zarr
from joined import two_caches
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.cache.tools.repack import repack
from pipeline.config import ConfigError, validate
from pipeline.experiments.quality import QualityConfig, quality
from pipeline.files import read_json
from pipeline.maintenance.readme import regenerate, save_results
from pipeline.results.runs import load_run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    cache = tiny_cache(folder)
    extract(cache)
    repack(folder / "store.zarr", folder / "int8.zarr", codec="int8")
    return QualityConfig(
        name="curve",
        out=str(folder / "curves"),
        train=tiny_train(folder, cache, steps=2, signal_every=0),
        stores={"fp16": cache.store, "int8": str(folder / "int8.zarr")},
        views=[1, 2],
        seeds=[0, 1],
    )


@pytest.fixture(scope="module")
def curve(config):
    return quality(config), read_json(config.folder / "quality.json")


def test_every_codec_and_number_of_views_is_trained_with_every_seed(curve):
    found = [(p["codec"], p["views"], p["seeds"]) for p in curve[1]["points"]]
    assert found == [("fp16", 1, [0, 1]), ("fp16", 2, [0, 1]), ("int8", 1, [0, 1]), ("int8", 2, [0, 1])]


def test_points_differ_by_codec_store_views_and_seed_alone(config):
    runs = [run for codec in config.stores for views in config.views for run in config.runs(codec, views)]
    free = {"name": True, "views": True, "seed": True, "cache": {"codec", "store"}}
    assert all(run.model_dump(exclude=free) == runs[0].model_dump(exclude=free) for run in runs)
    assert len({run.folder for run in runs}) == 8


def test_its_figures_are_those_of_the_saved_runs(config, curve):
    for point in curve[1]["points"]:
        values = [load_run(config.folder / run["folder"]).metrics["dice"] for run in point["runs"]]
        assert point["metrics"]["dice"]["mean"] == pytest.approx(sum(values) / 2)


def test_its_bytes_are_those_of_the_stored_arrays(config, curve):
    for point in curve[1]["points"]:
        group = zarr.open_group(config.stores[point["codec"]], mode="r")["train"]
        levels = [array for name, array in group.arrays() if name not in ("image", "label")]
        record = sum(array.dtype.itemsize * array[0].size for array in levels)
        assert point["bytes"] == record * 6 * point["views"]


def test_the_same_command_again_trains_nothing_and_says_the_same(config, curve):
    stamps = {f: f.stat().st_mtime_ns for f in config.folder.parents[1].glob("runs/*/student.safetensors")}
    assert len(stamps) == 8
    assert quality(config) == curve[0]
    assert {f: f.stat().st_mtime_ns for f in stamps} == stamps


def test_the_page_has_both_plots_and_loads_nothing(config, curve):
    page = (config.folder / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert {"quality-views.png", "quality-bytes.svg"} <= {p.name for p in config.folder.iterdir()}


def test_kept_beside_the_readme_it_has_table_plots_and_runs_without_weights(config, curve, tmp_path):
    kept = save_results(config.folder, tmp_path / "curve")
    assert (kept / "quality.md").read_text() == (config.folder / "quality.md").read_text()
    assert {p.suffix for p in kept.rglob("*.*")} == {".json", ".jsonl", ".md", ".yaml", ".svg"}
    text = "<!-- results:curve -->\n<!-- /results:curve -->\n"
    assert (kept / "quality.md").read_text() in regenerate(text, tmp_path)


def test_mistakes_are_told_together(config):
    wrong = {"views": [1, 1, 9], "seeds": [0, 0], "stores": {"fp7": "nowhere"}}
    with pytest.raises(ConfigError) as refusal:
        validate(QualityConfig, config.model_dump() | wrong, "quality.yaml")
    for part in ("views [1, 1, 9] repeat one", "seeds [0, 0]", "fp7", "views has 9, the store of train.cache has 2"):
        assert part in str(refusal.value)


def test_a_run_on_joined_stores_is_refused_because_a_curve_is_of_one_stores_codecs(config, tmp_path):
    caches = [cache.model_dump(mode="json") for cache in two_caches(tmp_path)]
    values = config.model_dump(mode="json")
    values["train"]["cache"] = caches
    with pytest.raises(ConfigError, match=r"sward quality takes a run of one store, found cache: .*; name one"):
        validate(QualityConfig, values, "quality.yaml")


def test_a_store_that_is_not_there_is_refused_before_any_run(config):
    absent = config.model_copy(update={"stores": config.stores | {"int4": "nowhere.zarr"}, "name": "absent"})
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zarr"):
        quality(absent)
