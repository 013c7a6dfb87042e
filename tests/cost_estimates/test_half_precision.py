"""The teacher as an extraction runs it: with the copy to the host on a GPU, and in both precisions."""

import torch
from tiny import tiny_cache

from pipeline.cache.extraction.device_encoding import DeviceEncoder, EncodedBatch
from pipeline.cache.format.codecs import CODECS
from pipeline.cost_estimates import calibration
from pipeline.cost_estimates.estimate import estimate_costs
from pipeline.cost_estimates.estimate_text import describe
from pipeline.cost_estimates.half_precision import centred_error, measure_half_precision
from pipeline.weights import load_teacher

CPU = torch.device("cpu")


def test_the_teachers_time_on_a_gpu_ends_when_the_encoded_bytes_are_in_host_memory(tmp_path, monkeypatch):
    teacher, waited = load_teacher(tiny_cache(tmp_path).teacher), []
    monkeypatch.setattr(calibration, "encoder_on", lambda device, codec: DeviceEncoder(codec, CPU))
    monkeypatch.setattr(EncodedBatch, "wait", lambda batch: waited.append(sum(t.nbytes for t in batch.host.values())))
    calibration.measure_teacher(teacher, (64, 64), 2, "cpu", CODECS["int8"])
    floats = 2 * sum(c * (64 // int(level[1:])) ** 2 for level, c in teacher.channels.items()) * 4
    assert len(waited) >= 2  # every call that is timed
    assert all(0.25 * floats < found < 0.9 * floats for found in waited)  # int8, and statistics of tiny maps


def test_the_error_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 4, generator=generator) + 5 for _ in range(2))
    wanted = []
    for x, y in zip(a, b, strict=True):
        square = total = 0.0
        for c in range(3):
            for i in range(4):
                for j in range(4):
                    p, q = float(x[c, i, j] - x[c].mean()), float(y[c, i, j] - y[c].mean())
                    square, total = square + (p - q) ** 2, total + q**2
        wanted.append((square / total) ** 0.5)
    assert abs(centred_error(a, b) - max(wanted)) < 1e-5


def test_both_precisions_are_measured_and_the_setting_is_left_alone(tmp_path):
    teacher = load_teacher(tiny_cache(tmp_path).teacher)
    found = measure_half_precision(teacher, torch.randn(1, 3, 64, 64), "cpu")
    assert teacher.autocast is False
    assert list(found.errors) == ["s4", "s8", "s16", "s32"]
    assert all(0 < error < 0.05 for error in found.errors.values())
    assert all(seconds > 0 for seconds in found.seconds)


def test_the_plan_says_what_bfloat16_gains_and_changes(tmp_path):
    made = estimate_costs(tiny_cache(tmp_path))
    (line,) = [line for line in describe(made) if line.startswith("bfloat16")]
    assert "teacher.autocast: true" in line
    assert all(f"{level} " in line for level in ("s4", "s8", "s16", "s32"))
