"""`sward inspect --html`: one page that loads nothing and shows what the store holds."""

import re
import shutil

import numpy as np
import pytest
from sklearn.decomposition import PCA
from tiny import tiny_cache

from pipeline.cache.extraction.extract import extract
from pipeline.cache.tools.repack import repack
from pipeline.cli import main
from pipeline.report.store_page import principal_colours, write_card


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    extract(tiny_cache(folder))
    return folder


def test_the_page_shows_every_level_and_loads_nothing(place, tmp_path, capsys):
    out = tmp_path / "page" / "card.html"
    assert main(["inspect", str(place / "store.zarr"), "--html", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text()
    for level in ("s4", "s8", "s16", "s32"):
        assert f"{level} PCA" in page
        assert f"{level}: values" in page
        assert f"{level}: mean ± standard deviation" in page
    assert page.count("data:image/jpeg") == 4 * 6
    assert not re.search(r"<script|(?:src|href)=\"(?:http|//)", page)
    assert "complete" in page
    assert "views.count: 2" in page


def test_the_same_store_is_the_same_page(place, tmp_path):
    first, second = (write_card(place / "store.zarr", tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_an_incomplete_store_shows_what_is_finished_and_says_so(place, tmp_path):
    store = shutil.copytree(place / "store.zarr", tmp_path / "store.zarr")
    for receipt in (store / "receipts").glob("train-*.json"):
        receipt.unlink()
    page = write_card(store, tmp_path / "card.html").read_text()
    assert "This store is incomplete" in page
    assert 'id="statistics"' not in page
    shutil.rmtree(store / "receipts")
    with pytest.raises(ValueError, match="no shard is finished yet"):
        write_card(store, tmp_path / "card.html")


def test_a_repacked_store_says_from_what(place, tmp_path, capsys):
    made = repack(place / "store.zarr", tmp_path / "out.zarr", codec="int8")
    assert main(["inspect", str(made.path)]) == 0
    assert "repacked       from fp16, store " in capsys.readouterr().out


def test_colours_are_the_principal_components_of_all_maps_together():
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((6, h, 5)) * np.arange(1, 7)[:, None, None] for h in (4, 7)]
    pictures, share = principal_colours(maps)
    every = np.concatenate([m.reshape(6, -1).T for m in maps])
    pca = PCA(3).fit(every)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    found = np.concatenate([p.reshape(-1, 3) for p in pictures]).astype(float)
    for i, projected in enumerate(pca.transform(every).T):
        assert abs(np.corrcoef(found[:, i], projected)[0, 1]) > 0.98  # the percentiles cut the tails


def test_colours_of_flat_and_narrow_maps_are_defined():
    pictures, share = principal_colours([np.zeros((2, 3, 4))])
    assert pictures[0].shape == (3, 4, 3)
    assert share == 0.0
    assert (pictures[0][..., 2] == 128).all()
