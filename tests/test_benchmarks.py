"""Benchmarks run, in miniature: nobody should find one broken on the day its figures are needed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "benchmarks"


def figures(tmp_path: Path, script: str, *options: str) -> Any:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, HERE / script, *options, "--json", out], cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_a_steps_cost_is_measured_for_every_row_and_case(tmp_path: Path) -> None:
    options = "--size 64 --batch 2 --window 2 4 --rows mwad pdr sward --repetitions 1 --one-by-one --channels-last"
    cases = figures(tmp_path, "step.py", *options.split())["cases"]
    assert [case["window"] for case in cases] == [2, 4]
    for case in cases:
        assert set(case["rows"]) == {"plain", "mwad", "pdr", "sward"}
        assert all(case["roofline"][module]["measured_ms"] > 0 for module in ("mwad", "pdr"))


def test_an_archives_bytes_are_measured_for_every_level(tmp_path: Path) -> None:
    rows = figures(tmp_path, "archive.py", "--records", "1")["rows"]
    assert rows.keys() == {"s4", "s8", "s16", "s32", "all levels"}
    assert all(row["archive"]["of_plain"] < row["zstd"]["of_plain"] < 1.01 for row in rows.values())


def test_reading_is_measured_beside_its_limits(tmp_path: Path) -> None:
    options = ["--case", "hiera-t-512", "--records", "4", "--repetitions", "1", "--threads", "1"]
    case = figures(tmp_path, "formats.py", *options, "--only", "npy a sample")["cases"]["hiera-t-512"]
    assert not case["missing"].keys() & {"SWARD", "raw", "npy a sample"}
    for rows in case["figures"].values():
        assert rows["raw"]["of_raw"] == [1, 1, 1]
        assert rows["SWARD"]["gb_per_s"] > 0
