"""`sward init` on sets as people have them: the card that it writes gives the right labels in at least 80 % of them.

The sets are no part of the checkout: SWARD_CASES names their folder (a folder a case: case.json, set/, expected/).
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import load_dataset
from pipeline.datasets.samples import read_label
from pipeline.starter.project import write_project

CASES = Path(os.environ.get("SWARD_CASES", "../shared/cases/data/cases"))
KEPT = 0.8

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases at {CASES}; set SWARD_CASES"),
]


def accepted():
    return [f.parent for f in sorted(CASES.glob("*/case.json")) if json.loads(f.read_text())["outcome"] == "accept"]


def mistake(case, place):
    """What is wrong with the labels that the written card gives; empty if they are right."""
    shutil.copytree(case / "set", place, symlinks=True)
    (place / "card.yaml").unlink(missing_ok=True)
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    try:
        if problems := write_project(place).problems:
            return problems
        samples = {Path(s.id).name: s for s in load_dataset(place / "card.yaml", "mine").samples}
    except ValueError as error:
        return str(error)
    assert all(p.read_bytes() == content for p, content in before.items())  # nothing of the user's has changed
    wanted = {p.stem: p for p in (case / "expected").rglob("*.png")}
    if set(samples) != set(wanted):
        return f"samples {sorted(samples)}, expected {sorted(wanted)}"
    wrong = [n for n, p in wanted.items() if (read_label(samples[n]) != np.asarray(Image.open(p))).any()]
    return f"labels of {wrong}" if wrong else ""


def test_init_writes_a_right_card_for_at_least_80_per_cent_of_the_sets(tmp_path):
    found = {case.name: mistake(case, tmp_path / case.name) for case in accepted()}
    right = [name for name, wrong in found.items() if not wrong]
    print(f"{len(right)} of {len(found)} sets right")
    assert len(right) >= KEPT * len(found), {name: wrong[:300] for name, wrong in found.items() if wrong}
