"""The procedural set: pure, whole or absent, and not solved by colour alone."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.datasets import check_all, load_dataset, read_card, read_label
from pipeline.datasets.procedural.config import Procedural, ensure, generate, render

SIZE = (80, 96)


def test_an_image_depends_on_seed_and_index_alone() -> None:
    first = [render(3, n, SIZE) for n in (0, 1, 2)]
    again = [render(3, n, SIZE) for n in (2, 1, 0)][::-1]
    for (image, label), (image_again, label_again) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(label, label_again)
    assert not np.array_equal(render(3, 0, SIZE)[0], render(4, 0, SIZE)[0])
    assert not np.array_equal(render(3, 0, SIZE)[0], render(3, 1, SIZE)[0])


def test_images_are_rgb_bytes_and_labels_name_the_classes() -> None:
    seen = set()
    for n in range(20):
        image, label = render(0, n, SIZE, classes=4)
        assert (image.shape, image.dtype, label.shape, label.dtype) == ((*SIZE, 3), np.uint8, SIZE, np.uint8)
        seen |= set(np.unique(label).tolist())
        two_image, two_label = render(0, n, SIZE)
        np.testing.assert_array_equal(two_image, image)  # the class count changes labels only
        np.testing.assert_array_equal(two_label, label == 1)
    assert seen == {0, 1, 2, 3}


def test_a_frame_is_the_same_scene_at_every_resolution() -> None:
    small, large = render(0, 5, SIZE)[1], render(0, 5, (160, 192))[1]
    assert (small == large[::2, ::2]).mean() > 0.98


def test_some_frames_have_no_polyp_and_some_have_large_and_small_ones() -> None:
    shares = np.array([render(0, n, SIZE)[1].mean() for n in range(60)])
    assert 0.01 < (shares == 0).mean() < 0.3
    assert shares.max() > 0.2
    assert 0 < shares[shares > 0].min() < 0.03


def test_colour_alone_does_not_find_the_polyps() -> None:
    """A quadratic discriminant on RGB, fitted on the very frames it is scored on, stays below a Dice of 0.35."""
    frames = [render(0, n, SIZE) for n in range(40)]
    rgb = np.stack([image for image, _ in frames]).reshape(-1, 3) / 255
    polyp = np.stack([label for _, label in frames]).reshape(-1) == 1
    scores = []
    for group in (rgb[polyp], rgb[~polyp]):
        precision = np.linalg.inv(np.cov(group.T))
        centred = rgb - group.mean(0)
        scores.append(
            0.5 * np.linalg.slogdet(precision)[1] - 0.5 * np.einsum("ni,ij,nj->n", centred, precision, centred)
        )
    ratio = scores[0] - scores[1]
    best = max(
        2 * (found & polyp).sum() / (found.sum() + polyp.sum())
        for found in (ratio > cut for cut in np.quantile(ratio, np.linspace(0.5, 0.98, 25)))
    )
    assert best < 0.35


def test_an_impossible_class_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"classes is 3; expected one of \[2, 4\]"):
        render(0, 0, SIZE, classes=3)


def test_the_set_is_made_when_first_loaded_and_then_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWARD_DATA", str(tmp_path))
    dataset = check_all("procedural", "random")
    assert "made the procedural data set (16 train, 16 val, 48 test)" in capsys.readouterr().err
    assert [len(dataset.subset(name)) for name in dataset.subsets] == [16, 16, 48]
    assert load_dataset("procedural", "sequence").samples == dataset.samples
    assert capsys.readouterr().err == ""
    assert {int(label) for s in dataset.samples for label in np.unique(read_label(s))} == {0, 1}


SMALL = {"kind": "procedural", "counts": {"train": 3, "val": 1, "test": 1}, "height": 32, "width": 40}


def test_a_card_with_four_classes_makes_its_own_files_beside_it(tmp_path: Path) -> None:
    content = read_card("procedural").model_dump(mode="json")
    content["classes"] = ["background", "polyp", "instrument", "lumen"]
    content["encoding"] = {"kind": "indexed", "labels": {n: n for n in range(4)}}
    for classes in (2, 4):
        content["source"] = {**SMALL, "classes": classes}
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
        check_all(tmp_path / "card.yaml", "random")
    assert len(list(tmp_path.glob("made-*"))) == 2


def test_an_interrupted_making_leaves_nothing_that_could_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.datasets.procedural.config._write", fail)
    with pytest.raises(OSError, match="disk full"):
        generate(Procedural.model_validate(SMALL), tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_making_twice_gives_the_same_bytes_and_a_late_writer_gives_way(tmp_path: Path) -> None:
    source = Procedural.model_validate(SMALL)
    first = ensure(source, tmp_path / "a")
    content = {path.name: path.read_bytes() for path in first.rglob("*.png")}
    generate(source, first)  # as another process would that found no folder when it began
    second = ensure(source, tmp_path / "b")
    assert {path.name: path.read_bytes() for path in second.rglob("*.png")} == content
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.name]
