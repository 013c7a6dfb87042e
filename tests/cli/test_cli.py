"""The `sward` command: answers at once, says what went wrong in one message, and gives the right exit status."""

import json
import re
import resource
import subprocess
import sys

import pytest
import yaml
from tiny import tiny_cache

from pipeline.cli import main

VERBS = ["init", "list", "config", "completion", "plan", "extract", "train", "compare", "quality", "inspect", "verify",
         "repack", "copy", "prune", "evaluate", "report", "predict", "export", "quickstart"]  # fmt: skip
HEAVY = {"torch", "sam2", "prefect", "zarr", "numpy", "lightning", "torchmetrics", "matplotlib"}


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline.cli", *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def helped():
    """(result of `sward --help`, seconds of CPU in user mode)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    result = command("--help")
    return result, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


@pytest.fixture
def cache_yaml(tmp_path):
    path = tmp_path / "cache.yaml"
    path.write_text(yaml.safe_dump(tiny_cache(tmp_path).model_dump(mode="json")))
    return path


def outcome(capsys, *arguments):
    """(exit status, what was printed on stderr); any exception out of main fails the test."""
    status = main([str(a) for a in arguments])
    return status, capsys.readouterr().err


def test_help_lists_every_verb_with_what_it_does(helped):
    result, _ = helped
    assert result.returncode == 0
    assert re.findall(r"^ {4}(\w+)\s+\w", result.stdout, re.MULTILINE) == VERBS


def test_help_costs_less_than_a_second(helped):
    assert helped[1] <= 1.0


def test_help_imports_nothing_heavy(helped):
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in helped[0].stderr.splitlines()}
    assert "argparse" in imported  # the list is what it should be
    assert not HEAVY & imported


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: sward {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["train"], ["verify", "x", "--records", "many"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: sward" in capsys.readouterr().err


def test_an_expected_error_is_one_message_without_a_traceback(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "train", str(tmp_path / "gone.yaml")], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("sward train: cannot read the configuration")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("size=[100,64]", "use 128"),
        ("dataset=nowhere", "nowhere"),
        ("split=nonsense", "nonsense"),
        ("teacher.weights=gone.pt", "teacher weights not found"),
        ("teacher.weights=hub:owner/repository/file.pt", "the hub has not given"),
        ("teacher.architecture=tiny", "set teacher.architecture to that"),
        ("teacher.digest=00ff", "expected 00ff"),
        ("device=cuda:77", "cuda:77"),
        ("codec.kind=fp8", "codec"),
    ],
)
def test_every_wrong_setting_of_an_extraction_is_refused_before_any_work(
    cache_yaml, capsys, monkeypatch, setting, said
):
    def unreachable(repository, file):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    status, error = outcome(capsys, "extract", cache_yaml, "--set", setting)
    assert status == 1
    assert error.startswith("sward extract: ")
    assert said in error
    assert not (cache_yaml.parent / "store.zarr/receipts").exists()


@pytest.mark.parametrize("below", ["", "/store.zarr", "/a/b"])
def test_a_file_where_a_folder_is_expected_is_called_by_its_name(cache_yaml, capsys, tmp_path, below):
    (tmp_path / "notes").write_text("mine")
    status, error = outcome(capsys, "extract", cache_yaml, "--set", f"store={tmp_path}/notes{below}")
    assert status == 1
    assert f"{tmp_path}/notes is a file, where a folder is expected; set another place" in error
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_checkpoint_that_cannot_be_read_is_an_expected_error(cache_yaml, capsys):
    weights = cache_yaml.parent / "teacher.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    status, error = outcome(capsys, "extract", cache_yaml)
    assert status == 1
    assert f"cannot read {weights}" in error


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_store_that_is_not_there_is_an_expected_error(tmp_path, capsys, verb):
    status, error = outcome(capsys, verb, tmp_path / "gone.zarr")
    assert status == 1
    assert f"sward {verb}: " in error
    assert "gone.zarr" in error


@pytest.mark.parametrize(("verb", "more"), [("evaluate", []), ("report", []), ("predict", ["picture.png"])])
def test_a_run_that_is_not_there_is_an_expected_error(tmp_path, capsys, verb, more):
    status, error = outcome(capsys, verb, tmp_path / "gone", *more)
    assert status == 1
    assert "gone" in error


def test_a_bug_keeps_its_traceback(monkeypatch, cache_yaml):
    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("pipeline.cache.extraction.extract.extract", broken)
    with pytest.raises(ZeroDivisionError):
        main(["extract", str(cache_yaml)])


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(monkeypatch, cache_yaml, capsys):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cache.extraction.extract.extract", stopped)
    status, error = outcome(capsys, "extract", cache_yaml)
    assert status == 130
    assert "the same command continues" in error


def test_both_stages_from_the_command_line(cache_yaml, tmp_path, capsys):
    train = {"name": "cli", "runs": str(tmp_path / "runs"), "cache": str(cache_yaml), "student": {"kind": "unext"}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train | {"steps": 2, "batch_size": 4, "device": "cpu"}))
    assert main(["plan", str(cache_yaml)]) == 0
    assert main(["extract", str(cache_yaml)]) == 0
    assert main(["inspect", str(tmp_path / "store.zarr")]) == 0
    assert main(["train", str(tmp_path / "train.yaml"), "--set", "optimizer.lr=1e-3"]) == 0
    out = capsys.readouterr().out
    assert "17 records, 17 computed now; content id" in out
    run = next((tmp_path / "runs").iterdir())
    best, test = json.loads((run / "student.json").read_text()), json.loads((run / "run.json").read_text())["test"]
    table = [
        line.split() for line in out[out.index(f"{run}: best of the validations: step {best['step']}") :].splitlines()
    ]
    assert table[1] == ["val", "test"]
    assert ["mDice", "%", f"{100 * best['validation']['dice']:.2f}", f"{100 * test['dice']:.2f}"] in table


MODULES = {"predict": "result_verbs", "train": "train_verbs"}


@pytest.mark.parametrize(
    ("verb", "remedy"), [("extract", "batch_size=1"), ("train", "bf16-mixed"), ("predict", "--tile")]
)
def test_a_full_gpu_is_an_error_of_the_user_with_what_to_do(verb, remedy, monkeypatch, cache_yaml, capsys):
    import torch

    message = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB. See docs."

    def full(args):
        raise torch.OutOfMemoryError(message)

    module = sys.modules[f"pipeline.cli.{MODULES.get(verb, 'main')}"]
    monkeypatch.setattr(module, verb, full)
    arguments = ["run", "image.png"] if verb == "predict" else [cache_yaml]
    status, said = outcome(capsys, verb, *arguments)
    assert status == 1
    assert "Tried to allocate 2.00 GiB" in said
    assert remedy in said
    assert "Traceback" not in said
