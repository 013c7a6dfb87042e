"""Benchmarks run, in miniature: nobody should find one broken on the day its figures are needed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sward.cpu_products import onednn_is_faster

HERE = Path(__file__).parent / "benchmarks"


def figures(tmp_path: Path, script: str, *options: str) -> Any:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, HERE / script, *options, "--json", out], cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_a_steps_cost_is_measured_for_every_row_and_case(tmp_path: Path) -> None:
    options = "--size 64 --batch 2 --window 2 4 --repetitions 1 --one-by-one --channels-last --rows mwad pdr sward"
    cases = figures(tmp_path, "step.py", *options.split(), "sward, plain")["cases"]
    assert [case["window"] for case in cases] == [2, 4]
    for case in cases:
        assert set(case["rows"]) == {"plain", "mwad", "pdr", "sward", "sward, plain"}
        limits = [case["roofline"][module][name] for module in ("mwad", "pdr") for name in ("measured_ms", "bare_ms")]
        assert all(ms > 0 for ms in limits)


def test_both_orders_of_maps_are_measured_for_a_student(tmp_path: Path) -> None:
    options = "--students unext --size 64 --repetitions 1"
    students = figures(tmp_path, "memory_format.py", *options.split())["students"]
    assert students["unext"]["ratio"] > 0


@pytest.mark.slow  # four commands
def test_training_while_extracting_is_measured_in_both_ways_with_one_student(tmp_path: Path) -> None:
    small = ["cache.size=[64,64]", "cache.views.count=1", "steps=2", "eval_every=0", "pictures=0"]
    options = [word for setting in small for word in ("--set", setting)]
    found = figures(tmp_path, "beside.py", *options, "--repetitions", "1", "--folder", str(tmp_path))
    assert found["equal"]
    assert found["ways"].keys() == {"two stages", "beside"}
    assert all(0 < way["first_step_s"] < way["end_s"] for way in found["ways"].values())


def test_a_teachers_precisions_are_measured_against_sam2_itself(tmp_path: Path) -> None:
    weights = HERE.parents[1] / "data" / "pocket-teacher" / "trunk.safetensors"
    options = "--architecture pocket --size 64 --repetitions 1 --weights"
    rows = figures(tmp_path, "teacher.py", *options.split(), str(weights))["rows"]
    limits = {
        "sam2, its own": 1e-6,
        "float32": 1e-4 if onednn_is_faster() else 1e-6,
    }
    assert all(error < limit for row, limit in limits.items() for error in rows[row]["errors"].values())
    assert all(0 < error < 0.2 for error in rows["bfloat16"]["errors"].values())
    assert rows["bfloat16, half"]["errors"]["s4"] < 1e-5


def test_an_archives_bytes_are_measured_for_every_level(tmp_path: Path) -> None:
    rows = figures(tmp_path, "archive.py", "--records", "1")["rows"]
    assert rows.keys() == {"s4", "s8", "s16", "s32", "all levels"}
    assert all(row["archive"]["of_plain"] < row["zstd"]["of_plain"] < 1.01 for row in rows.values())


def test_the_first_read_of_a_record_is_measured_beside_reading_it(tmp_path: Path) -> None:
    found = figures(tmp_path, "first_reads.py", "--records", "2", "--repetitions", "1")
    assert found["milliseconds"].keys() == {"read", "check", "cold", "zlib.crc32", "sha256", "blake2b"}
    assert found["milliseconds"]["check"] < found["milliseconds"]["blake2b"]
    assert found["shares"]["of_reads"] == found["shares"]["of_read"] / 20


def test_reading_is_measured_beside_its_limits(tmp_path: Path) -> None:
    options = ["--case", "hiera-t-512", "--records", "4", "--repetitions", "1", "--threads", "1"]
    case = figures(tmp_path, "formats.py", *options, "--only", "npy a sample")["cases"]["hiera-t-512"]
    assert not case["missing"].keys() & {"SWARD", "raw", "npy a sample"}
    for rows in case["figures"].values():
        assert rows["raw"]["of_raw"] == [1, 1, 1]
        assert rows["SWARD"]["gb_per_s"] > 0


@pytest.mark.slow  # exports the student: half a minute
def test_a_students_latency_is_measured_in_torch_and_in_its_file(tmp_path: Path) -> None:
    found = figures(tmp_path, "latency.py", "--only", "linknet-mobilenetv3-small", "--side", "64")
    assert found["size"] == [64, 64]
    assert all(0 < found["students"]["linknet-mobilenetv3-small"][name] < 1e4 for name in ("torch", "onnxruntime"))
