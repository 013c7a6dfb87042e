"""Encoding on the teacher's device: the store of an encoding with NumPy, byte for byte, and the same refusals."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_cache, tree

from pipeline.cache.errors import ExtractionError
from pipeline.cache.extraction import teacher_writer
from pipeline.cache.extraction.device_encoding import DeviceEncoder
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.statistics import statistics
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.tools.verify import verify

CPU = torch.device("cpu")


@pytest.fixture
def on_device(monkeypatch):
    """Extraction as on a GPU, on the CPU."""
    original = teacher_writer.TeacherWriter.__init__

    def init(self, path, config, *rest):
        original(self, path, config, *rest)
        self.on_device = DeviceEncoder(config.codec, CPU)

    def switch():
        monkeypatch.setattr(teacher_writer.TeacherWriter, "__init__", init)

    return switch


@pytest.mark.parametrize("codec", ["int8", "int4", "int16", "fp16", "fp32"])
def test_the_store_is_the_same_byte_for_byte(tmp_path, on_device, codec):
    config = tiny_cache(tmp_path, codec={"kind": codec})
    expected = tree(extract(config).path)
    on_device()
    config = config.model_copy(update={"store": str(tmp_path / "device.zarr")})
    path = extract(config).path
    found = tree(path)
    assert found.keys() == expected.keys()
    shards = [name for name in found if "/c/" in name or name.endswith(".png")]
    assert len(shards) > 10
    assert all(found[name] == expected[name] for name in shards)
    for name in found:
        if name.startswith("receipts"):
            levels = [json.loads(files[name])["levels"] for files in (found, expected)]
            for level, facts in levels[0].items():
                for key, value in facts.items():
                    np.testing.assert_allclose(value, levels[1][level][key], rtol=1e-10, atol=1e-10)
    assert verify(path).ok


def test_statistics_are_those_of_each_record():
    f = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = DeviceEncoder(CODECS["int8"], CPU)({"s8": f})
    for i in range(3):
        found, expected = batch.statistics(i)["s8"], statistics(f[i].numpy())
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-12)


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "NaN or infinite"), (7e4, "exceeds fp16's 65504")])
def test_what_cannot_be_stored_stops_the_extraction_with_the_samples_name(
    tmp_path, on_device, monkeypatch, value, message
):
    from sward.teachers.hiera import HieraTeacher

    forward = HieraTeacher.forward
    monkeypatch.setattr(HieraTeacher, "forward", lambda self, x: {k: f + value for k, f in forward(self, x).items()})
    on_device()
    with pytest.raises(ExtractionError, match=message) as raised:
        extract(tiny_cache(tmp_path))
    assert "train" in str(raised.value)
