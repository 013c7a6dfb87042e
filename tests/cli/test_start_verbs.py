"""Names and keys can be looked up on the command line, shells complete it, and near misses are suggested."""

import os
import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from pipeline.cache.config import CacheConfig
from pipeline.cli import main
from pipeline.cli.config_text import ROOTS
from pipeline.cli.start_verbs import VERBS
from pipeline.config import kind_of, models_in
from pipeline.experiments.compare_config import CompareConfig
from pipeline.results.runs import RunError, find_run, load_run
from pipeline.training.config import TrainConfig
from pipeline.yaml_files import read_yaml_text

MODELS = {"extract": CacheConfig, "train": TrainConfig, "compare": CompareConfig}


def printed(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", {"plain", "sward", "kd"}),
        ("students", {"unext", "deeplabv3"}),
        ("teachers", {"hiera", "timm"}),
        ("codecs", {"fp16", "int4"}),
        ("configs", {"configs/quickstart/compare.yaml"}),
    ],
)
@pytest.mark.parametrize("columns", [80, 120])
def test_lists_name_everything_and_fit_the_terminal(capsys, monkeypatch, what, names, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys, "list", what).splitlines()
    assert names <= {line.split()[0] for line in lines}
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if line.endswith("-")]  # nothing breaks mid-word


@pytest.mark.parametrize("what", ["methods", "teachers"])
def test_a_list_says_what_a_thing_is_and_not_what_its_settings_are(capsys, what):
    lines = dict(line.split(maxsplit=1) for line in printed(capsys, "list", what).splitlines() if line[0] != " ")
    wanted = {
        "methods": ("fitnet", "FitNet: trains the student's map"),
        "teachers": ("hiera", "Frozen Hiera trunk of SAM 2"),
    }
    name, text = wanted[what]
    assert lines[name].startswith(text)
    assert not [about for about in lines.values() if about.startswith(("Weight", "Configuration"))]


@pytest.mark.parametrize("verb", VERBS)
def test_config_describes_the_keys_of_groups_and_names_their_kinds(capsys, verb):
    text = " ".join(line.lstrip("# ") for line in printed(capsys, "config", verb).splitlines())
    model = ROOTS[verb]
    for name, field in model.model_fields.items():
        if field.default_factory_takes_validated_data:
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        for key, inner in type(default).model_fields.items() if isinstance(default, BaseModel) else ():
            assert f"{key}:" in text
            assert (inner.description or "").replace("``", "`") in text, f"{name}.{key}"
        kinds = [kind_of(m) for m in models_in([field.annotation]) if kind_of(m)]
        assert len(kinds) < 2 or f"Written {{kind: {kinds[0]}}}; kinds: {', '.join(dict.fromkeys(kinds))}" in text


@pytest.mark.parametrize("verb", MODELS)
def test_config_prints_every_key_and_the_defaults_are_what_the_model_takes(capsys, verb):
    text, model = printed(capsys, "config", verb), MODELS[verb]
    keys = set(re.findall(r"^(?:# )?(\w+):", text, re.MULTILINE))
    assert set(model.model_fields) <= keys
    for name, field in model.model_fields.items():
        if field.is_required() or field.default_factory_takes_validated_data:
            continue
        block = re.search(rf"^# {name}:.*(?:\n#  .*)*", text, re.MULTILINE)[0]
        value = read_yaml_text(re.sub(r"^# ", "", block, flags=re.MULTILINE))[name]
        default = field.get_default(call_default_factory=True)
        dumped = default
        if isinstance(default, BaseModel):  # in a dump, keys that change nothing are left out
            dumped = {key: getattr(default, key) for key in type(default).model_fields} | default.model_dump(
                mode="json"
            )
        assert value == (list(dumped) if isinstance(dumped, tuple) else dumped)


def test_a_shell_completes_verbs(tmp_path):
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": "sward qu",
        "COMP_POINT": "8",
        "_ARGCOMPLETE_IFS": "|",
    }
    environment |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    subprocess.run([sys.executable, "-m", "pipeline.cli"], env=environment, capture_output=True)
    assert {word.strip() for word in (tmp_path / "found").read_text().split("|")} == {"quality", "quickstart"}


def test_a_misspelt_verb_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["trian", "x.yaml"])
    assert "did you mean train?" in capsys.readouterr().err


def test_a_run_is_found_by_its_name_without_the_hash(tmp_path):
    for name in ("good-0123456789", "twice-0123456789", "twice-abcdef0123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    assert find_run(tmp_path / "good") == tmp_path / "good-0123456789"
    assert find_run(tmp_path / "good-0123456789") == tmp_path / "good-0123456789"
    with pytest.raises(RunError, match="is the name of 2 runs"):
        find_run(tmp_path / "twice")
    with pytest.raises(RunError, match=r"did you mean .*good-0123456789"):
        load_run(tmp_path / "godo-012345678")
