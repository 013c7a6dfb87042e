"""The teacher in the loop instead of the cache: the same losses within what the codec rounds off."""

import json
import subprocess
import sys

import pytest
import yaml
from tiny import tiny_cache, tiny_train, tiny_weights

from pipeline.cache.errors import CacheMismatch
from pipeline.cache.extraction.extract import extract
from pipeline.training.loop import train

# Largest relative difference of any term over the run: none for fp32, at the full learning rate. The others have a
# small one: at the full rate 50 steps amplify any difference, even a last digit's, a hundred thousand times.
CODECS = {"fp32": 0.0, "fp16": 4e-3, "int8": 2e-2}
RATES = {"fp32": 5e-4, "fp16": 1e-5, "int8": 1e-5}
METHODS = {
    "sward": {"kind": "sward", "mwad": {"gain": 2.0}, "pdr": {"features": "penultimate"}},
    "cankd": {"kind": "cankd"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("online")


@pytest.fixture(scope="module", params=CODECS)
def cache(request, folder):
    config = tiny_cache(
        folder, codec={"kind": request.param}, store=str(folder / f"{request.param}.zarr"), batch_size=1
    )
    extract(config)
    return config


def losses(config):
    lines = [json.loads(line) for line in (train(config) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith("term/")} for line in lines if "loss" in line]


@pytest.mark.parametrize("method", [pytest.param("cankd", marks=pytest.mark.slow), "sward"])
def test_fifty_steps_have_the_losses_of_the_cache_within_the_codecs_rounding(method, cache, tmp_path):
    common = {"method": METHODS[method], "steps": 50, "signal_every": 0, "checkpoint_every": 100}
    common |= {"optimizer": {"lr": RATES[cache.codec.kind]}}
    cached, online = (losses(tiny_train(tmp_path, cache, teacher=t, **common)) for t in ("cached", "online"))
    assert len(cached) == 50
    limit = CODECS[cache.codec.kind]
    worst = max(
        abs(a[k] - b[k]) / abs(b[k]) if a[k] != b[k] else 0.0 for a, b in zip(cached, online, strict=True) for k in b
    )
    assert worst <= limit


def test_it_sees_the_stored_view_where_colours_are_drawn_anew_for_the_student(tmp_path):
    cache = tiny_cache(
        tmp_path, codec={"kind": "fp32"}, batch_size=1, views={"count": 2, "photometric": "student", "brightness": 0.4}
    )
    extract(cache)
    common = {"method": METHODS["cankd"], "steps": 4, "signal_every": 0}
    cached, online = (losses(tiny_train(tmp_path, cache, teacher=t, **common)) for t in ("cached", "online"))
    assert cached == online


def test_a_run_with_the_teacher_in_the_loop_is_another_run(cache, tmp_path):
    cached, online = (tiny_train(tmp_path, cache, teacher=t) for t in ("cached", "online"))
    assert cached.identity() != online.identity()


def test_other_weights_than_the_stores_are_refused(folder, cache, tmp_path):
    other = tiny_weights(tmp_path / "other.safetensors", seed=9)
    elsewhere = cache.model_copy(update={"teacher": cache.teacher.model_copy(update={"weights": str(other)})})
    with pytest.raises(CacheMismatch, match=r"teacher\.(digest|weights)"):
        train(tiny_train(tmp_path, elsewhere, teacher="online"))


def test_it_is_the_only_way_in_which_training_opens_weights(tmp_path):
    cache = tiny_cache(tmp_path)
    extract(cache)
    gone = cache.model_dump(mode="json")
    config = tiny_train(tmp_path, cache, steps=2).model_dump(mode="json") | {"cache": gone}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    script = 'import sys; sys.modules["sam2"] = None; from pipeline.cli import main; sys.exit(main(sys.argv[1:]))'
    command = [sys.executable, "-c", script, "train", str(tmp_path / "train.yaml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    online = subprocess.run([*command, "--set", "teacher=online"], capture_output=True, text=True, check=False)
    assert online.returncode != 0
