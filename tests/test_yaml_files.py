"""Configuration files are read as they are meant, or refused with the line; no path makes a folder named ~ or $X."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.config import CacheConfig
from pipeline.cli import main
from pipeline.config import ConfigError, load_config, read_yaml
from pipeline.experiments.compare_config import CompareConfig
from pipeline.paths import expand, read_path, write_path
from pipeline.training.config import TrainConfig
from pipeline.yaml_files import dump_yaml, read_yaml_text

CACHE = """dataset: procedural
teacher: {architecture: pocket, weights: nowhere.safetensors}
size: [96, 128]
store: store.zarr
"""
TRAIN = """name: small
cache: cache.yaml
student: {kind: unext}
steps: 10
"""
COMPARE = """name: c
train: train.yaml
seeds: [0, 1]
methods:
  student alone: {kind: plain}
  AT: {kind: at}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"cache": CACHE, "train": TRAIN, "compare": COMPARE}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "name", "more", "said"),
    [
        (TrainConfig, "train", "steps: 20\n", r"'steps' is given twice, in lines 4 and 5; keep one"),
        (TrainConfig, "train", "optimizer: {lr: 1, lr: 2}\n", "'lr' is given twice, in lines 5 and 5"),
        (CompareConfig, "compare", "  AT: {kind: plain}\n", "'AT' is given twice, in lines 6 and 7"),
        (CacheConfig, "cache", "views: {count: 1}\n\nviews: {seed: 1}\n", "'views' is given twice, in lines 5 and 7"),
        (CacheConfig, "cache", '"size": [64, 64]\n', "'size' is given twice, in lines 3 and 5"),
    ],
)
def test_a_key_twice_is_an_error_with_both_lines(here, model, name, more, said):
    file = here / f"{name}.yaml"
    file.write_text(file.read_text() + more)
    with pytest.raises(ConfigError, match=said) as refusal:
        load_config(model, file)
    assert str(file) in str(refusal.value)


def test_a_merged_key_may_be_stated_again():
    text = "a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  x: 3\n"
    assert read_yaml_text(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


@pytest.mark.parametrize("number", ["0100", "-010", "08", "00", "1:30", "1:30:05", "12:30.5", "0_7"])
def test_a_number_that_is_read_in_two_ways_is_refused_with_its_line(here, number):
    (here / "train.yaml").write_text(TRAIN.replace("steps: 10", f"steps: {number}"))
    with pytest.raises(ConfigError, match=f"line 4: {number} is read as another number.*'{number}' in quotes"):
        load_config(TrainConfig, "train.yaml")


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "true", "false", "True", "[1]", "'ten'", "2020-01-01"])
def test_a_word_for_a_number_is_refused(here, word):
    (here / "train.yaml").write_text(TRAIN.replace("steps: 10", f"steps: {word}"))
    with pytest.raises(ConfigError, match="steps"):
        load_config(TrainConfig, "train.yaml")
    with pytest.raises(ConfigError, match="size"):
        load_config(CacheConfig, "cache.yaml", [f"size=[{word},64]"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("1e-3", 1e-3),
        ("-2.5E+4", -25000.0),
        (".5e1", 5.0),
        ("0", 0),
        ("0.5", 0.5),
        ("007.5", 7.5),
        ("1_000", 1000),
        ("0x10", 16),
        ("'1e3'", "1e3"),
        ("'0100'", "0100"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("s3://a/b", "s3://a/b"),
        ("a:30", "a:30"),
    ],
)
def test_scalars_are_what_they_look_like(text, value):
    found = read_yaml_text(f"x: {text}\n")["x"]
    assert found == value
    assert type(found) is type(value)


def test_exponents_are_numbers_in_files_and_on_the_command_line(here):
    (here / "train.yaml").write_text(TRAIN + "optimizer: {lr: 1e-3}\n")
    assert load_config(TrainConfig, "train.yaml", ["steps=1e3"]).optimizer.lr == 0.001
    assert load_config(TrainConfig, "train.yaml", ["steps=1e3"]).steps == 1000


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("no", False), ("on", True), ("true", True)])
def test_a_setting_that_is_a_truth_value_takes_every_word_for_it(word, value, here):
    assert load_config(CacheConfig, "cache.yaml", [f"teacher.autocast={word}"]).teacher.autocast is value


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text("0123456789eE+-.:_xyesnoNOtrufal~ ", max_size=8)
)


@given(st.recursive(plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("ab01e", max_size=3), v)))
def test_what_is_written_is_read_back_the_same(value):
    found = read_yaml_text(dump_yaml(value))
    assert found == value
    assert dump_yaml(found) == dump_yaml(value)


@pytest.mark.parametrize("text", ["[" * 5000, "{" * 5000, "a: " + "- " * 3000])
def test_deep_nesting_is_refused_in_a_sentence(text, here):
    (here / "deep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"deep\.yaml is not YAML"):
        read_yaml(here / "deep.yaml")


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({"train.yaml": "cache: train.yaml"}, "train.yaml includes train.yaml"),
        ({"train.yaml": "cache: ./train.yaml"}, "train.yaml includes train.yaml"),
        (
            {"train.yaml": "cache: b.yaml", "b.yaml": "train: train.yaml"},
            "train.yaml includes b.yaml includes train.yaml",
        ),
    ],
)
def test_a_file_that_includes_itself_is_named(here, links, said, capsys):
    for name, text in links.items():
        (here / name).write_text(f"name: x\n{text}\n")
    assert main(["train", "train.yaml"]) == 1
    assert f"{said}, which never ends" in capsys.readouterr().err


def test_one_file_may_be_included_twice_side_by_side(here):
    (here / "both.yaml").write_text("cache: cache.yaml\ntrain: train.yaml\n")
    values = read_yaml(here / "both.yaml")
    assert values["cache"] == values["train"]["cache"]


@pytest.mark.parametrize("text", ["~/x", "$PLACE/x", "${PLACE}/x", "~/$SUB/x"])
def test_home_and_variables_are_replaced_in_every_path(text, here, monkeypatch):
    for name, value in {"HOME": str(here / "home"), "PLACE": str(here / "disk"), "SUB": "sub"}.items():
        monkeypatch.setenv(name, value)
    found = expand(text)
    assert found.startswith(str(here))
    assert not set(found) & set("~${}")
    assert read_path(text) == write_path(text)
    assert str(write_path(text)) == found
    assert str(load_config(TrainConfig, "train.yaml", [f"runs={text}"]).folder).startswith(found)
    assert str(load_config(CompareConfig, "compare.yaml", [f"out={text}"]).folder).startswith(found)


@pytest.mark.parametrize("text", ["$NOWHERE_SET/x", "${NOWHERE_SET}/x", "a/$5/x", "~nobody-here/x"])
def test_what_has_no_value_is_refused_and_makes_no_folder(text, here, capsys):
    with pytest.raises(ValueError, match=r"has no value here; set it, or write the path out"):
        write_path(text)
    assert main(["extract", "cache.yaml", "--set", f"store={text}"]) == 1
    assert sorted(p.name for p in here.iterdir()) == ["cache.yaml", "compare.yaml", "train.yaml"]


def test_a_folder_that_exists_may_have_such_a_name(here):
    (here / "$5").mkdir()
    assert expand("$5") == "$5"
    assert expand(here / "$5") == str(here / "$5")


def test_a_bucket_may_be_a_variable(monkeypatch):
    monkeypatch.setenv("BUCKET", "sets")
    assert write_path("s3://$BUCKET/x") == write_path("s3://sets/x")


def test_resolved_configurations_keep_awkward_texts(here):
    config = load_config(TrainConfig, "train.yaml", ["name='1e3'"])
    (here / "saved.yaml").write_text(dump_yaml(config.model_dump(mode="json")))
    assert load_config(TrainConfig, "saved.yaml") == config
    assert yaml.safe_load((here / "saved.yaml").read_text())["name"] == "1e3"
    assert math.isfinite(config.optimizer.lr)
