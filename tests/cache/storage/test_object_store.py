"""Stores at URLs, against a real S3-compatible server on loopback that fails, stalls and trickles."""

import numpy as np
import pytest
import torch
from faults import readable
from s3server import client_of, environment, objects, serving, without_place
from tiny import HEAD, tiny_cache, tiny_train, tree

from pipeline.cache.errors import CacheMismatch, RemoteError
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.copy import copy
from pipeline.cache.tools.verify import verify
from pipeline.cli import main
from pipeline.paths import read_path, write_path
from pipeline.training.loop import train

NEEDS_HEAD = {"kind": "combined", "parts": {"SWARD": {"kind": "sward"}, "KD": {"kind": "kd"}}}


@pytest.fixture(scope="module")
def server():
    with serving() as (url, door):
        yield url, door


@pytest.fixture
def remote(server, tmp_path, monkeypatch, request):
    """(URL of a prefix of its own, door); the clients' environment is set, and their folders are empty."""
    url, door = server
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SWARD_CACHE", str(tmp_path / "sward-cache"))
    torch.set_num_threads(1)
    yield f"s3://features/{request.node.name.split('[')[0][-40:]}-{tmp_path.name}/store.zarr", door
    door.share = 0.0


def test_extraction_to_a_url_gives_the_bytes_of_a_local_one_and_extends(remote, tmp_path):
    url, _ = remote
    for views in (1, 2):
        changes = {"views": {"count": views, "seed": 0}}
        far, near = (extract(tiny_cache(tmp_path, store=s, **changes)) for s in (url, str(tmp_path / "l")))
        assert far.computed == near.computed
    assert without_place(objects(url)) == without_place(tree(tmp_path / "l"))
    assert extract(tiny_cache(tmp_path, store=url)).computed == 0
    assert readable(Store(read_path(url))) == readable(Store(tmp_path / "l"))
    assert not [f for f in write_path(url).rglob("*") if "c" in f.parts[-6:-1] and f.is_file()]
    assert verify(read_path(url)).ok


def test_a_tenth_of_all_requests_failing_changes_no_byte_and_no_weight(remote, tmp_path):
    url, door = remote
    local = tiny_cache(tmp_path, store=str(tmp_path / "local"))
    extract(local)
    door.share, before = 0.1, dict(door.counts)
    far = tiny_cache(tmp_path, store=url)
    extract(far)
    students = []
    for name, cache in (("near", local), ("far", far)):
        config = tiny_train(tmp_path, cache, runs=str(tmp_path / name), head=HEAD, method=NEEDS_HEAD)
        train(config.head_run())
        students.append((train(config) / "student.safetensors").read_bytes())
    door.share = 0.0
    assert students[0] == students[1]
    assert without_place(objects(url)) == without_place(tree(tmp_path / "local"))
    injected = {kind: door.counts[kind] - before.get(kind, 0) for kind in ("error", "held", "slow")}
    assert min(injected.values()) > 0, injected


def test_what_was_read_is_not_asked_for_again(remote, tmp_path):
    url, door = remote
    extract(tiny_cache(tmp_path, store=url))
    first = readable(Store(read_path(url)))
    again = Store(read_path(url))
    before = door.counts["all"]
    assert readable(again) == first
    assert door.counts["all"] == before
    assert readable(Store(read_path(url), cache_bytes=0)) == first


def test_a_compressed_store_reads_the_same_from_a_url_and_from_what_was_kept_of_it(remote, tmp_path):
    url, _ = remote
    local = extract(tiny_cache(tmp_path, compression="zstd")).path
    copy(local, write_path(url))
    for _ in range(2):
        assert readable(Store(read_path(url))) == readable(Store(local))


def test_a_copy_goes_there_and_comes_back_to_the_byte(remote, tmp_path, capsys):
    url, door = remote
    extract(tiny_cache(tmp_path))
    door.share = 0.05
    assert main(["copy", str(tmp_path / "store.zarr"), url]) == 0
    assert f"{url}: " in capsys.readouterr().out
    assert main(["copy", url, str(tmp_path / "back")]) == 0
    door.share = 0.0
    there, here = objects(url), tree(tmp_path / "store.zarr")
    assert there == {name: data for name, data in here.items() if name != ".lock"}
    assert {n: d for n, d in tree(tmp_path / "back").items() if n != ".lock"} == there
    assert copy(tmp_path / "store.zarr", write_path(url)).copied == 0


def test_a_torn_copy_is_no_store_and_is_continued(remote, tmp_path, monkeypatch):
    url, _ = remote
    extract(tiny_cache(tmp_path))

    def torn(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("pipeline.cache.tools.upload.at_once", torn)
        assert main(["copy", str(tmp_path / "store.zarr"), url]) == 130
    with pytest.raises(FileNotFoundError, match=f"no feature store at {url}"):
        Store(read_path(url))
    with pytest.raises(CacheMismatch, match=f"{url} is not a store, but holds copying.json"):
        extract(tiny_cache(tmp_path, store=url))
    assert copy(tmp_path / "store.zarr", write_path(url)).copied == 0
    assert readable(Store(read_path(url))) == readable(Store(tmp_path / "store.zarr"))


def test_other_zarr_readers_open_the_objects(remote, tmp_path):
    import zarr
    from zarr.storage import ObjectStore

    url, _ = remote
    extract(tiny_cache(tmp_path, store=url))
    store, group = (
        Store(read_path(url)),
        zarr.open_group(ObjectStore(client_of(url), read_only=True), mode="r"),
    )
    for record in store.records["train"][:3]:
        out = {name: np.empty(*spec) for name, spec in store.specs("train").items()}
        store.read(record, out)
        assert all(np.array_equal(group[f"train/{name}"][record.row], array) for name, array in out.items())


def test_a_missing_or_changed_object_is_named_with_its_url_and_made_again(remote, tmp_path, capsys):
    import obstore

    url, _ = remote
    extract(tiny_cache(tmp_path, store=url))
    right, client = objects(url), client_of(url)
    changed = bytearray(right["train/s8/c/0/0/0/0"])
    changed[100] ^= 1
    obstore.put(client, "train/s8/c/0/0/0/0", bytes(changed))
    assert main(["verify", url, "--files-only"]) == 1
    said = capsys.readouterr().out
    assert f"damaged file: {url}/train/s8/c/0/0/0/0" in said
    assert f"delete {url}/receipts/train-00000.json and extract again" in said
    obstore.delete(client, "train/s8/c/0/0/0/0")
    assert main(["inspect", url]) == 1
    assert f"{url}/train/s8/c/0/0/0/0: missing" in capsys.readouterr().err
    obstore.delete(client, "receipts/train-00000.json")
    assert extract(tiny_cache(tmp_path, store=url)).computed == 4
    assert without_place(objects(url)) == without_place(right)


def test_a_shard_replaced_under_a_reader_is_refused_and_never_kept(remote, tmp_path):
    url, _ = remote
    extract(tiny_cache(tmp_path, store=url))
    store = Store(read_path(url))
    record, name = store.records["train"][0], "train/s8/c/0/0/0/0"
    store.mirror.remote.put(name, bytes(store.objects[name].bytes))
    with pytest.raises(RemoteError, match=f"{name}.*was replaced since the store was opened"):
        store.features(record, ["s8"])
