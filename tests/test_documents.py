"""Damaged JSON documents of a run: every shape tried is refused with file and remedy, and nothing is written."""

import json
import shutil

import pytest
from tiny import tiny_train, tree

from pipeline.cli import main
from pipeline.documents import Comparison, DocumentError, Evaluation, Facts, LogLine, Profile, read_document, read_log
from pipeline.training.loop import train

SHAPES = {
    "nothing": b"",
    "zeros": b"\0" * 100,
    "not UTF-8": b'{"status": "\xff\xfe"}',
    "half of it": b'{"status": "fini',
    "a list": b"[]",
    "a text": b'"finished"',
    "null": b"null",
    "an empty dict": b"{}",
    "nested too deeply": b"[" * 200_000,
    "a number of 5000 digits": b'{"step": ' + b"9" * 5000 + b"}",
}
FACTS = {
    "status": "finished",
    "identity": "0" * 64,
    "content_id": "1" * 64,
    "store": "s",
    "seed": 0,
    "seconds": 1.0,
    "commit": None,
    "versions": {"torch": "2"},
    "threads": 1,
    "test": {"dice": 0.5, "hd95": None},
    "subset": "test",
    "best_val": None,
}


@pytest.mark.parametrize("shape", [Facts, Evaluation, Profile, Comparison, LogLine])
@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_a_document_of_any_other_shape_names_file_and_remedy(tmp_path, shape, content):
    file = tmp_path / "document.json"
    file.write_bytes(content)
    with pytest.raises(DocumentError, match=rf"document.json is damaged.*; .*{tmp_path}"):
        read_document(file, shape)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "done"}, "status: Input should be 'running', 'stopped' or 'finished', found 'done'"),
        ({"status": ["finished"]}, "status: Input should be"),
        ({"seconds": "12"}, "seconds: Input should be a valid number, found '12'"),
        ({"seconds": None}, "seconds: Input should be a valid number"),
        ({"versions": []}, "versions: Input should be a valid dictionary"),
        ({"versions": {"torch": 2}}, "versions.torch: Input should be a valid string"),
        ({"test": {}}, "expected test, subset and best_val of a finished run"),
        ({"test": [0.5]}, "test: Input should be a valid dictionary"),
        ({"test": {"dice": "0.5"}}, "test.dice: Input should be a valid number"),
        ({"seed": 0.5}, "seed: Input should be a valid integer"),
        ({"threads": True}, "threads: Input should be a valid integer"),
        ({"sources": {"head": 3}}, "sources.head: Input should be a valid string"),
    ],
    ids=str,
)
def test_an_entry_of_another_type_is_named_with_what_was_found(tmp_path, change, said):
    (tmp_path / "run.json").write_text(json.dumps(FACTS | change))
    with pytest.raises(DocumentError, match=said):
        read_document(tmp_path / "run.json", Facts)


@pytest.mark.parametrize("missing", [key for key in FACTS if key != "subset"])
def test_a_missing_entry_is_named(tmp_path, missing):
    (tmp_path / "run.json").write_text(json.dumps({k: v for k, v in FACTS.items() if k != missing}))
    with pytest.raises(DocumentError, match=missing):
        read_document(tmp_path / "run.json", Facts)


def test_a_whole_document_is_returned_as_it_stands(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(FACTS | {"further": [1]}))
    assert read_document(tmp_path / "run.json", Facts) == FACTS | {"further": [1]}


WHOLE = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "lo', b"\n", b'{"st\xff'])
def test_the_torn_last_line_of_a_killed_run_is_left_out(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_bytes(WHOLE + torn)
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [b"\0\0\0\0", b"[1, 2]", b"{}", b'{"step": "1"}', b'{"step": 1, "loss": "x"}', b'{"step": 1, "loss": {}}', b"\xff"],
)
def test_another_damaged_line_of_a_log_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n" + WHOLE)
    with pytest.raises(DocumentError, match=r"metrics.jsonl, line 1, is damaged.*delete this line"):
        read_log(tmp_path / "metrics.jsonl")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    return train(tiny_train(tmp_path_factory.mktemp("finished"), cache, steps=2, signal_every=0))


VERBS = {
    "run.json": ["report", "evaluate", "train"],
    "metrics.jsonl": ["report"],
    "evaluation.json": ["report"],
    "student.json": ["evaluate", "predict"],
    "config.yaml": ["report", "train"],
}
CONTENTS = [b"", b"\0" * 50 + b"\n{}\n", b"\xff\xfe\n{}\n", b"[1]\n{}\n", b'{"a": 1}\n{"b": {}}\n', b'"text"\n1\n']


@pytest.mark.parametrize(("file", "verb"), [(file, verb) for file, verbs in VERBS.items() for verb in verbs])
def test_every_verb_names_a_damaged_file_and_changes_nothing(finished, tmp_path, monkeypatch, capsys, file, verb):
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    config = tmp_path / "config.yaml"
    shutil.copy(run / "config.yaml", config)
    monkeypatch.chdir(tmp_path)
    arguments = {
        "report": ["report", str(run), "--out", "r.html"],
        "evaluate": ["evaluate", str(run)],
        "train": ["train", str(run / file if file == "config.yaml" else config), "--set", f"runs={tmp_path}"],
        "predict": ["predict", str(run), str(tmp_path / "none")],
    }[verb]
    for content in CONTENTS:
        if file == "metrics.jsonl" and not content:
            continue  # a run that has logged nothing yet
        (run / file).write_bytes(content)
        before = tree(run)
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert file in said
        assert "Traceback" not in said
        assert {k: v for k, v in tree(run).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}
