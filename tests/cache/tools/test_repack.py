"""`sward repack`: other shards or another codec, from a store alone."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch
from faults import CONTEXT, readable
from tiny import tiny_cache, tiny_train, tree

from pipeline.cache.errors import CacheMismatch, StoreDamaged, StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.timing import extraction_cost
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.store import Store
from pipeline.cache.tools.repack import repack
from pipeline.cache.tools.verify import verify
from pipeline.cli import main
from pipeline.training.loop import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an fp16 store of 17 records in shards of 4."""
    folder = tmp_path_factory.mktemp("source")
    extract(tiny_cache(folder))
    return folder


def test_other_shards_keep_the_content_id_and_every_byte(place, tmp_path):
    before = Store(place / "store.zarr")
    made = repack(before.path, tmp_path / "out.zarr", shard_records=5)
    after = Store(made.path)
    assert made.content_id == after.content_id == before.content_id
    assert (made.records, made.written) == (17, 17)
    assert after.shard_records == 5
    assert readable(after) == readable(before)
    for record in before.records["test"]:
        assert np.array_equal(after.full_label(record), before.full_label(record))


def test_a_repacked_store_is_verified_against_the_teacher_and_trains(place, tmp_path):
    made = repack(place / "store.zarr", tmp_path / "out.zarr", codec="int8", shard_records=6)
    found = verify(made.path, records=4)
    assert found.ok, found.problems
    config = tiny_cache(place, codec={"kind": "int8"}, store=str(made.path), shard_records=6)
    assert (train(tiny_train(tmp_path, config, steps=2)) / "run.json").is_file()


def test_another_codec_is_that_codec_of_the_decoded_values_under_a_new_identity(place, tmp_path):
    before = Store(place / "store.zarr")
    after = Store(repack(before.path, tmp_path / "out.zarr", codec="int8").path)
    extracted = extract(tiny_cache(place, codec={"kind": "int8"}, store=str(tmp_path / "direct.zarr")))
    assert len({before.content_id, after.content_id, extracted.content_id}) == 3
    assert after.identity["repacked.from"] == {"content_id": before.content_id, "precisions": ["fp16"]}
    record, size = before.records["train"][7], (8, 8)
    parts = CODECS["int8"].encode("s8", before.features(record, ["s8"])["s8"].numpy())
    expected = CODECS["int8"].decode("s8", {n: torch.from_numpy(a)[None] for n, a in parts.items()}, size)[0]
    same = next(r for r in after.records["train"] if r.name == record.name)
    assert torch.equal(after.features(same, ["s8"])["s8"], expected)


def test_statistics_are_those_of_the_decoded_values(place, tmp_path):
    store = Store(repack(place / "store.zarr", tmp_path / "out.zarr", shard_records=7).path)
    every = torch.stack([store.features(r, ["s16"])["s16"] for r in store.records["train"]]).double()
    mean, std = store.statistics()["s16"]
    torch.testing.assert_close(mean, every.mean((0, 2, 3)).float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(std, every.std((0, 2, 3), correction=0).float(), atol=1e-6, rtol=1e-6)


def test_what_the_extraction_took_is_kept_with_what_repacking_added(place, tmp_path):
    before, after = (Store(p) for p in (place / "store.zarr", repack(place / "store.zarr", tmp_path / "out.zarr").path))
    costs = [extraction_cost(s.path, s.receipts) for s in (before, after)]
    assert costs[1]["records"] == costs[0]["records"] == 17
    assert costs[1]["seconds"] >= costs[0]["seconds"] - 0.01
    assert costs[1]["devices"] == costs[0]["devices"]


def test_the_gaps_that_extensions_leave_are_closed(tmp_path):
    extract(tiny_cache(tmp_path))
    extract(tiny_cache(tmp_path, views={"count": 3, "seed": 0}))
    before = Store(tmp_path / "store.zarr")
    after = Store(repack(before.path, tmp_path / "out.zarr").path)
    assert after.content_id == before.content_id
    assert [r.row for r in after.records["train"]] == list(range(18))
    assert readable(after) == readable(before)
    extract(tiny_cache(tmp_path, views={"count": 4, "seed": 0}, store=str(after.path)))
    assert len(Store(after.path).records["train"]) == 24


def test_the_teacher_never_adds_to_what_was_encoded_from_another_store(place, tmp_path):
    made = repack(place / "store.zarr", tmp_path / "out.zarr", codec="int8")
    same = {"codec": {"kind": "int8"}, "store": str(made.path)}
    assert extract(tiny_cache(place, **same)).computed == 0
    with pytest.raises(CacheMismatch, match=r"repacked\.from: .*6 records are to be added(.|\n)*extend the store"):
        extract(tiny_cache(place, views={"count": 3, "seed": 0}, **same))
    (made.path / "receipts/train-00001.json").unlink()
    with pytest.raises(CacheMismatch, match="1 shards are missing"):
        extract(tiny_cache(place, **same))


def test_the_same_command_continues_and_another_one_is_refused(place, tmp_path):
    out = tmp_path / "out.zarr"
    repack(place / "store.zarr", out, codec="int8", shard_records=3)
    whole = tree(out)
    (out / "receipts/train-00002.json").unlink()
    (out / "train/s8/c/2/0/0/0").unlink()
    assert repack(place / "store.zarr", out, codec="int8", shard_records=3).written == 3
    assert {n: c for n, c in tree(out).items() if n != "timing.jsonl"} == {
        n: c for n, c in whole.items() if n != "timing.jsonl"
    }
    with pytest.raises(CacheMismatch, match="shard_records: not those of this repack"):
        repack(place / "store.zarr", out, codec="int8", shard_records=4)
    with pytest.raises(CacheMismatch, match="precision: expected int4, found int8"):
        repack(place / "store.zarr", out, codec="int4", shard_records=3)


def repack_quietly(source, out):
    torch.set_num_threads(1)
    repack(source, out, codec="int8", shard_records=1)


def test_killed_at_random_instants_it_resumes_to_the_same_bytes(place, tmp_path):
    source, out = place / "store.zarr", tmp_path / "killed.zarr"
    repack(source, tmp_path / "whole.zarr", codec="int8", shard_records=1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        child = CONTEXT.Process(target=repack_quietly, args=(source, out))
        child.start()
        child.join(timeout=float(rng.uniform(0.05, 0.4)))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    repack(source, out, codec="int8", shard_records=1)
    killed, whole = (shards_of(tmp_path / name) for name in ("killed.zarr", "whole.zarr"))
    assert killed == whole
    assert not verify(out, sources=False).problems


def shards_of(store):
    return {n: c for n, c in tree(store).items() if "/c/" in n or n.startswith(("receipts/", "full_labels/"))}


def test_changed_bytes_are_never_passed_on_with_a_new_checksum(place, tmp_path):
    source = shutil.copytree(place / "store.zarr", tmp_path / "damaged.zarr")
    shard = source / "train/s16/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"damaged file: .*train/s16/c/1/0/0/0 .*delete .*train-00001\.json"):
        repack(source, tmp_path / "out.zarr", codec="int8")
    with pytest.raises(StoreIncomplete):
        Store(tmp_path / "out.zarr")


def test_a_more_precise_codec_is_refused_for_it_would_give_back_nothing(place, tmp_path, capsys):
    assert main(["repack", str(place / "store.zarr"), str(tmp_path / "out.zarr"), "--codec", "fp32"]) == 1
    assert "the values of" in (said := capsys.readouterr().err)
    assert "were rounded to fp16" in said
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("out", [".", "inside", ".."])
def test_a_store_is_never_repacked_into_itself(place, out):
    with pytest.raises(CacheMismatch, match="a folder of its own"):
        repack(place / "store.zarr", place / "store.zarr" / out)


def test_the_command_says_what_it_made(place, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    assert main(["repack", str(place / "store.zarr"), str(out), "--shard-records", "8"]) == 0
    assert f"{out}: 17 records, 17 written now; content id {Store(out).content_id}" in capsys.readouterr().out
