"""A flipped bit in a checkpoint or a student is noticed on loading; files of earlier versions still load."""

import shutil
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.results.runs import evaluate_run
from pipeline.training.checkpoint import read
from pipeline.training.loop import train
from sward.students import SavedStudentError, load


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checksums")
    cache = tiny_cache(folder)
    extract(cache)
    return train(tiny_train(folder, cache, method={"kind": "plain"}, steps=2))


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(content)


def places(path, first, count):
    size = path.stat().st_size
    return [first + i * (size - first) // count for i in range(count)]


def test_every_flipped_bit_of_a_students_weights_is_noticed(run):
    path = run / "student.safetensors"
    whole, header = path.read_bytes(), 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for place in places(path, header, 60):
        flip(path, place)
        with pytest.raises(SavedStudentError, match="is damaged: its weights do not match the digest in it; copy both"):
            load(run)
        path.write_bytes(whole)
    load(run)


def test_a_flipped_bit_of_the_header_never_gives_other_weights(run):
    path = run / "student.safetensors"
    whole, before = path.read_bytes(), load(run).network.state_dict()
    for place in range(8, 8 + int.from_bytes(whole[:8], "little"), 97):
        flip(path, place)
        try:
            after = load(run).network.state_dict()
        except SavedStudentError:
            pass
        else:
            assert all(torch.equal(before[name], after[name]) for name in before)
        path.write_bytes(whole)


def test_evaluation_notices_it_too(run):
    flip(run / "student.safetensors", (run / "student.safetensors").stat().st_size - 5)
    with pytest.raises(ValueError, match=r"student\.safetensors is damaged"):
        evaluate_run(run, "val")


def test_a_student_of_an_earlier_version_loads(run):
    tensors = load_file(run / "student.safetensors")
    save_file(tensors, run / "student.safetensors")
    assert load(run).network.state_dict().keys() == tensors.keys()


def test_every_flipped_bit_of_a_checkpoints_records_is_noticed(run):
    path = run / "last.ckpt"
    whole = path.read_bytes()
    with ZipFile(path) as records:
        entries = [
            (info.header_offset + 200, info.compress_size) for info in records.infolist() if info.compress_size > 999
        ]
    for start, size in entries[:: max(1, len(entries) // 40)]:
        flip(path, start + size // 2)
        with pytest.raises(ValueError, match=r"last\.ckpt is damaged \(.*\); remove it and run the same command again"):
            read(path)
        path.write_bytes(whole)
    assert read(path)["step"] == 2


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", bytes(500)])
def test_what_is_no_checkpoint_is_called_damaged(run, content):
    (run / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        read(run / "last.ckpt")
