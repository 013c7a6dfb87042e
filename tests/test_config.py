"""Configuration files: all mistakes at once, `--set`, includes; and every file that is shipped is valid."""

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.config import CacheConfig
from pipeline.config import ConfigError, as_overrides, load_config, override, parse_value, read_yaml, validate
from pipeline.experiments.compare_config import CompareConfig
from pipeline.experiments.quality import QualityConfig
from pipeline.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"cache": CacheConfig, "train": TrainConfig, "compare": CompareConfig, "quality": QualityConfig}
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "students")  # test_shortlist.py
CACHE = """
dataset: procedural
teacher: {architecture: pocket, weights: nowhere.safetensors}
size: [96, 128]
store: store.zarr
"""
TRAIN = """
name: small
cache: {cache}
student: {{kind: unext}}
steps: 10
"""


@pytest.fixture
def cache_yaml(tmp_path):
    path = tmp_path / "cache.yaml"
    path.write_text(CACHE)
    return path


@pytest.fixture
def train_yaml(tmp_path, cache_yaml):
    path = tmp_path / "train.yaml"
    path.write_text(TRAIN.format(cache=cache_yaml))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_file_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = MODELS[path.stem if path.parent.name == "quickstart" else path.parent.name]
    load_config(model, path)


def test_there_are_shipped_files_of_every_kind():
    assert {p.parent.name for p in CONFIGS} >= {"cache", "train", "compare", "quality", "quickstart"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_shipped_file_holds_an_absolute_path(path):
    assert not [line for line in path.read_text().splitlines() if ": /" in line]


def test_several_mistakes_are_reported_together_with_their_fields(train_yaml):
    wrong = ["steps=0", "optimizer.lr=-1", "batchsize=4", "views=none", "cache.size=[100,128]", "name=a b"]
    with pytest.raises(ConfigError) as refusal:
        load_config(TrainConfig, train_yaml, wrong)
    title, *lines = str(refusal.value).splitlines()
    assert title == f"{train_yaml} is not a valid TrainConfig:"
    assert {line.split(":")[0].strip() for line in lines} == {
        "steps",
        "optimizer.lr",
        "batchsize",
        "views",
        "cache",
        "name",
    }
    assert "  steps: Value error, how long to train is not said; give steps: 1000, or epochs: 20; found 0" in lines
    assert "  batchsize: unknown key; did you mean batch_size?" in lines
    assert "use 128" in next(line for line in lines if line.startswith("  cache"))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stepps=3", "stepps: unknown key; did you mean steps?"),
        ("optimizer.weightdecay=1", "optimizer.weightdecay: unknown key; did you mean weight_decay?"),
        ("method.mwad.gian=2", "method.sward.mwad.gian: unknown key; did you mean gain?"),
        ("cache.views.cuont=2", "cache.views.cuont: unknown key; did you mean count or contrast?"),
        ("zzz=3", "zzz: unknown key; remove it or correct its name"),
    ],
)
def test_a_typing_error_in_a_key_is_answered_with_the_key_that_was_meant(train_yaml, setting, said):
    with pytest.raises(ConfigError) as refusal:
        load_config(TrainConfig, train_yaml, ["method.kind=sward", setting])
    assert f"  {said}" in str(refusal.value).splitlines()


def test_a_file_for_another_verb_is_recognised(train_yaml, cache_yaml):
    with pytest.raises(ConfigError, match="TrainConfig: this looks like a CacheConfig, for sward plan and sward extr"):
        load_config(TrainConfig, cache_yaml)
    with pytest.raises(ConfigError, match="CacheConfig: this looks like a TrainConfig, for sward train"):
        load_config(CacheConfig, train_yaml)


def test_a_missing_key_is_named(cache_yaml):
    cache_yaml.write_text("dataset: procedural\n")
    with pytest.raises(ConfigError, match=r"teacher: Field required(?s:.)*size: Field required(?s:.)*store: Field"):
        load_config(CacheConfig, cache_yaml)


def test_an_unknown_kind_lists_the_known_ones(train_yaml):
    with pytest.raises(ConfigError, match=r"method: .*'nonsense'.*'sward'"):
        load_config(TrainConfig, train_yaml, ["method.kind=nonsense"])
    with pytest.raises(ConfigError, match=r"student: .*'unxt'.*'unext'"):
        load_config(TrainConfig, train_yaml, ["student.kind=unxt"])
    with pytest.raises(ConfigError, match=r"codec: .*'fp8'.*'fp16', 'bf16', 'int8'"):
        load_config(CacheConfig, train_yaml.parent / "cache.yaml", ["codec.kind=fp8"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-0.5", -0.5),
        ("1e-3", 1e-3),
        ("2.5E4", 2.5e4),
        ("[256, 256]", [256, 256]),
        ("{kind: int8}", {"kind": "int8"}),
        ("true", True),
        ("null", None),
        ("", None),
        ("data/a=b.pt", "data/a=b.pt"),
        ("'7'", "7"),
    ],
)
def test_the_value_of_set_is_yaml_that_also_knows_exponents(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_set_reaches_nested_and_included_settings(train_yaml):
    config = load_config(
        TrainConfig,
        train_yaml,
        ["optimizer.lr=1e-3", "cache.size=[64,96]", "cache.views.count=3", "method.kind=sward", "method.mwad.gain=2"],
    )
    assert config.optimizer.lr == 1e-3
    assert config.cache.size == (64, 96)
    assert config.cache.views.count == 3
    assert config.method.mwad.gain == 2


def test_the_last_set_wins(train_yaml):
    assert load_config(TrainConfig, train_yaml, ["steps=5", "steps=6"]).steps == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps", "--set steps: expected name=value, e.g."),
        ("steps.more=1", "--set steps.more=1: steps is not a group of settings"),
        ("size=[1,", r"--set size=\[1,: the value is not YAML"),
        ("=3", "--set =3: expected name=value"),
        ("optimizer.=3", "--set optimizer.=3: expected name=value"),
    ],
)
def test_a_wrong_set_is_shown_with_what_is_expected(train_yaml, text, said):
    with pytest.raises(ConfigError, match=said):
        load_config(TrainConfig, train_yaml, [text])


def test_a_file_that_is_missing_or_not_a_mapping_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml: No such file.*; give the path"):
        read_yaml(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: expected `key: value` lines, found list"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        read_yaml(tmp_path / "broken.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\0\1\2")
    with pytest.raises(ConfigError, match=r"bytes\.yaml is not YAML"):
        read_yaml(tmp_path / "bytes.yaml")


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_configuration_is_read_in_the_encodings_of_text_editors(tmp_path, encoding, ends):
    text = CACHE.replace("nowhere", "Gewichte é")
    (tmp_path / "cache.yaml").write_bytes(text.replace("\n", ends).encode(encoding))
    assert str(load_config(CacheConfig, tmp_path / "cache.yaml").teacher.weights) == "Gewichte é.safetensors"


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_configuration_in_another_code_page_is_told_with_the_line(tmp_path, mark):
    (tmp_path / "cache.yaml").write_bytes(mark + CACHE.encode() + "# é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cache\.yaml: byte 0xe9 in line 6 is not UTF-8; save the file as UTF-8"):
        load_config(CacheConfig, tmp_path / "cache.yaml")


def test_an_included_file_is_read_in(train_yaml, cache_yaml):
    assert load_config(TrainConfig, train_yaml).cache == load_config(CacheConfig, cache_yaml)


def test_includes_nest(tmp_path, train_yaml):
    path = tmp_path / "compare.yaml"
    path.write_text(f"name: c\ntrain: {train_yaml}\nmethods: {{student alone: {{kind: plain}}}}\nseeds: [0, 1]\n")
    config = load_config(CompareConfig, path, ["train.cache.views.count=2"])
    assert config.train.cache.views.count == 2


def test_a_missing_include_is_named(train_yaml, cache_yaml):
    cache_yaml.unlink()
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*cache\.yaml"):
        load_config(TrainConfig, train_yaml)


def test_a_mistake_within_an_include_is_named_by_its_place(train_yaml, cache_yaml):
    cache_yaml.write_text(CACHE + "colour: red\n")
    with pytest.raises(ConfigError, match=r"cache\.colour: unknown key"):
        load_config(TrainConfig, train_yaml)


def test_a_resolved_configuration_loads_again_as_itself(train_yaml):
    config = load_config(TrainConfig, train_yaml, ["method.kind=sward"])
    assert validate(TrainConfig, config.model_dump(mode="json"), "saved") == config


scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
words = st.text("abcdefghij /._-", min_size=1, max_size=12).map(str.strip).filter(bool)
values = st.recursive(
    scalars | words, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=6
)


@given(values)
def test_overrides_made_of_values_give_the_values_back(value):
    found = {}
    for text in as_overrides({"a.b": value, "c": 1}):
        override(found, text)
    assert found == {"a": {"b": value}, "c": 1}


def test_a_preset_set_over_stated_values_resets_its_group():
    values = {"method": {"mwad": {"teacher_proj": "frozen", "gain": "auto"}, "beta": 2.0}}
    override(values, "method.mwad.preset=paper")
    override(values, "method.mwad.gain=2")
    assert values == {"method": {"mwad": {"preset": "paper", "gain": 2}, "beta": 2.0}}


@pytest.mark.parametrize(
    "setting", ["std=[0.2,0,0.2]", "std=[0.2,-1,0.2]", "mean=[.nan,0,0]", "mean=[123.7,116.3,103.5]"]
)
def test_a_normalisation_that_is_none_or_in_another_unit_is_refused(cache_yaml, setting):
    with pytest.raises(ConfigError, match=r"(std|mean)\.\d: Input should be"):
        load_config(CacheConfig, cache_yaml, [setting])


@pytest.mark.parametrize("setting", ["optimizer.lr", "optimizer.weight_decay"])
@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_a_number_without_end_is_no_setting(train_yaml, setting, number):
    with pytest.raises(ConfigError, match=rf"{setting.replace('.', '[.]')}: Input should be .*; found -?(inf|nan)"):
        load_config(TrainConfig, train_yaml, [f"{setting}={number}"])
