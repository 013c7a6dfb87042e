"""`sward inspect` shows what the labels of every subset hold, and extraction tells beforehand what they lack."""

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_cache, tiny_dataset, tiny_weights

from pipeline.cache.extraction.extract import extract
from pipeline.cache.tools.inspect import describe, inspect
from pipeline.datasets import check_all, read_label


@pytest.fixture
def three_classes(tmp_path):
    card = tiny_dataset(tmp_path / "tiny")
    tiny_weights(tmp_path / "teacher.safetensors")
    text = card.read_text().replace("[background, polyp]", "[background, polyp, tool]")
    card.write_text(text.replace("labels: {0: 0, 1: 1}", "labels: {0: 0, 1: 1, 2: 2}, ignore: [9]"))
    mask = np.array(Image.open(tmp_path / "tiny/masks/val-0.png"))
    mask[:9] = 9
    Image.fromarray(mask).save(tmp_path / "tiny/masks/val-0.png")
    return tiny_cache(tmp_path)


def test_inspect_shows_the_shares_of_the_classes_in_every_subset(three_classes):
    extract(three_classes)
    facts = inspect(three_classes.store)
    samples = check_all(three_classes.dataset, three_classes.split).samples
    for subset, shares in facts["classes"].items():
        labels = [read_label(sample) for sample in samples if sample.subset == subset]
        for k, share in enumerate(shares["classes"].values()):
            labelled = sum(int((label != 255).sum()) for label in labels)
            counted = sum(int((label == k).sum()) for label in labels) / labelled
            assert share == pytest.approx(counted, abs=0.02)  # the store's labels are 64×64, the masks 72×80
        assert shares["images"] == shares["of"] == len(labels)
    assert facts["classes"]["val"]["ignored"] == pytest.approx(9 / 72 / 2, abs=0.01)
    lines = [line for line in describe(facts) if " classes" in line and "%" in line]
    assert [line.split()[0] for line in lines] == ["train", "val", "test"]
    assert all("no pixel of tool" in line for line in lines)


def test_a_class_that_no_mask_holds_is_told_before_the_teacher_works(three_classes, capsys, monkeypatch):
    def stop(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cache.extraction.extract.load_teacher", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(three_classes)
    assert "note: class 'tool' is in no mask at all: it cannot be learnt" in capsys.readouterr().err
