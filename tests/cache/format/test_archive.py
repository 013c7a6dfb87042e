"""Archives: residuals of a prediction, restored exactly, smaller than zstd, unpacked before training."""

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import tiny_cache, tiny_train, tree

from pipeline.cache.errors import CacheMismatch
from pipeline.cache.extraction.extract import extract
from pipeline.cache.format.compression import pack, unpack
from pipeline.cache.format.prediction import residuals, restore
from pipeline.cache.store import Store
from pipeline.cache.tools.repack import repack
from pipeline.cache.tools.verify import verify
from pipeline.training.loop import train

MAPS = arrays("uint8", st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store of int8, and its archive."""
    folder = tmp_path_factory.mktemp("archive")
    extract(tiny_cache(folder, codec={"kind": "int8"}))
    repack(folder / "store.zarr", folder / "archive.zarr", compression="archive")
    return folder


@given(MAPS)
def test_what_is_left_restores_the_values(values):
    out = np.empty_like(values)
    restore(residuals(values), out)
    assert np.array_equal(out, values)
    assert unpack(pack(values, "archive"), out)
    assert np.array_equal(out, values)
    assert not unpack(pack(values, "archive")[:-1], out)


def test_prediction_is_the_median_of_left_above_and_their_plane():
    values = np.random.default_rng(0).integers(0, 256, (2, 5, 6)).astype(np.uint8)
    left = residuals(values)
    for c, y, x in np.ndindex(values.shape):
        a, b, k = (int(values[c, y - dy, x - dx]) if y >= dy and x >= dx else 0 for dy, dx in ((0, 1), (1, 0), (1, 1)))
        assert left[c, y, x] == (int(values[c, y, x]) - sorted((a, b, a + b - k))[1]) % 256


def test_smooth_maps_take_a_fifth_less_than_their_bytes_and_noise_hardly_more():
    y, x = np.mgrid[:64, :64]
    rng = np.random.default_rng(0)
    smooth = np.stack([128 + 90 * np.sin(y / 9 + c) * np.cos(x / 7) + rng.normal(0, 20, (64, 64)) for c in range(8)])
    maps = np.clip(np.rint(smooth), 0, 255).astype(np.uint8)
    assert len(pack(maps, "archive")) < 0.88 * maps.nbytes < len(pack(maps))
    noise = rng.integers(0, 256, (8, 64, 64)).astype(np.uint8)
    assert len(pack(noise, "archive")) < 1.001 * noise.nbytes


def test_an_archive_has_the_stores_content_id_and_unpacks_to_its_files(place, tmp_path):
    back = repack(place / "archive.zarr", tmp_path / "back.zarr", compression="none")
    stores = [Store(place / name) for name in ("store.zarr", "archive.zarr")]
    assert len({back.content_id, *(store.content_id for store in stores)}) == 1
    plain, archived, unpacked = (
        {n: data for n, data in tree(path).items() if "/c/" in n} for path in (*(s.path for s in stores), back.path)
    )
    assert unpacked == plain
    assert sum(map(len, archived.values())) < 0.9 * sum(map(len, plain.values()))


def test_an_archive_is_verified_and_its_other_arrays_are_open_to_zarr(place):
    found = verify(place / "archive.zarr", records=2)
    assert found.ok, found.problems
    group = zarr.open_group(place / "archive.zarr", mode="r")["train"]
    store = Store(place / "archive.zarr")
    record = store.records["train"][1]
    for name in ("label", "s4_scale"):
        assert np.array_equal(group[name][record.row], store.arrays(record, [name])[name])
    for name in ("image", "s4"):
        with pytest.raises(KeyError):
            group[name]


def test_an_archive_is_not_trained_from(place, tmp_path):
    cache = tiny_cache(place, codec={"kind": "int8"}, store=str(place / "archive.zarr"))
    with pytest.raises(CacheMismatch, match=r"found archive.*\n*.*sward repack .*archive.zarr NEW_FOLDER"):
        train(tiny_train(tmp_path, cache))
