"""Lossless compression is a matter of layout: the same values and content id, fewer bytes, damage noticed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import tiny_cache, tiny_train, tree

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.extraction.extract import extract
from pipeline.cache.format.compression import pack, unpack
from pipeline.cache.store import Store
from pipeline.cache.tools.repack import repack
from pipeline.cache.tools.verify import verify
from pipeline.training.loop import train

DTYPES = st.sampled_from(["uint8", "float16", "float32"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    extract(tiny_cache(folder))
    extract(packed(folder))
    return folder


def packed(folder, **changes):
    return tiny_cache(folder, store=str(folder / "packed.zarr"), compression="zstd", **changes)


@given(DTYPES.flatmap(lambda kind: arrays(kind, st.tuples(st.integers(1, 9), st.integers(1, 300)))))
def test_what_was_packed_unpacks_to_the_same_bytes(chunk):
    out = np.empty_like(chunk)
    assert unpack(pack(chunk), out)
    assert out.tobytes() == chunk.tobytes()


@given(st.binary(max_size=200), st.integers(1, 64))
def test_bytes_that_are_no_packed_chunk_are_told(data, size):
    out = np.empty(size, np.uint8)
    assert not unpack(data, out) or pack(out) == data
    assert not unpack(pack(out)[:-1], out)
    assert not unpack(pack(out), np.empty(size + 1, np.uint8))


def test_a_packed_store_is_smaller_and_has_the_same_content_id_and_values(place):
    plain, small = Store(place / "store.zarr"), Store(place / "packed.zarr")
    assert small.content_id == plain.content_id
    sizes = [sum(len(b) for name, b in tree(s.path).items() if "/c/" in name) for s in (small, plain)]
    assert sizes[0] < 0.95 * sizes[1]
    for subset, records in plain.records.items():
        for record in records:
            a, b = ({n: np.empty(*spec) for n, spec in plain.specs(subset).items()} for _ in range(2))
            plain.read(record, a)
            small.read(record, b)
            assert all(np.array_equal(a[name], b[name]) for name in a)


def test_it_is_verified_and_trains_to_the_same_student(place):
    found = verify(place / "packed.zarr", records=4)
    assert found.ok, found.problems
    runs = [train(tiny_train(place / c.compression, c, steps=2)) for c in (tiny_cache(place), packed(place))]
    assert runs[0].name == runs[1].name
    assert len({(run / "student.safetensors").read_bytes() for run in runs}) == 1


def test_repacking_there_and_back_gives_the_same_files(place, tmp_path):
    small = repack(place / "store.zarr", tmp_path / "small.zarr", compression="zstd")
    back = repack(small.path, tmp_path / "back.zarr", compression="none")
    assert small.content_id == back.content_id
    shards = [
        {name: data for name, data in tree(path).items() if "/c/" in name}
        for path in (place / "packed.zarr", small.path, place / "store.zarr", back.path)
    ]
    assert shards[0] == shards[1]
    assert shards[2] == shards[3]


def test_an_extension_is_packed_as_the_store_was_begun(tmp_path):
    extract(packed(tmp_path, views={"count": 1, "seed": 0}))
    extract(packed(tmp_path).model_copy(update={"compression": "none"}))
    store = Store(tmp_path / "packed.zarr")
    assert store.compression == "zstd"
    assert {r.view.number for r in store.records["train"]} == {0, 1}
    assert all(f.isfinite().all() for r in store.records["train"] for f in store.features(r).values())


def test_a_shard_cut_or_changed_is_noticed_and_named(place, tmp_path):
    made = repack(place / "packed.zarr", tmp_path / "cut.zarr")
    shard = made.path / "train/s4/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"  # the first chunk's size unpacked
    shard.write_bytes(data)
    store = Store(made.path)
    with pytest.raises(
        StoreDamaged, match=r"s4/c/0/0/0/0: inner chunk 0 does not unpack to \d+ bytes; run `sward verify`"
    ):
        store.features(store.records["train"][0])
    assert any("s4/c/0" in problem for problem in verify(made.path).problems)
