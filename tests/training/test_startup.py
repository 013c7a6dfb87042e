"""From the command to the first step: nothing heavy is imported that the step does not use."""

import json
import os
import resource
import subprocess
import sys

import pytest
import yaml
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract

UNUSED = [
    "segmentation_models_pytorch", "timm", "torchvision", "matplotlib", "sklearn", "scipy", "prefect", "sam2", "hydra",
    "zarr", "tensorflow", "torchmetrics", "jinja2", "pandas",
]  # fmt: skip

# Stops at the first logged step: what was imported until then, and the processor's seconds that it took.
FIRST_STEP = """
import json, resource, sys
from pipeline.cli import main
import pipeline.training.loop as loop
def first(*arguments):
    spent = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"modules": sorted({m.partition(".")[0] for m in sys.modules if sys.modules[m]}),
                      "seconds": spent.ru_utime + spent.ru_stime}))
    sys.exit(0)
loop.log_step = first
main(["train", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """What a UNeXt run with SWARD has imported, and CPU seconds, when its first step is done; and those of torch."""
    folder = tmp_path_factory.mktemp("startup")
    cache = tiny_cache(folder)
    extract(cache)
    config = tiny_train(folder, cache, signal_every=0)
    (folder / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", FIRST_STEP, str(folder / "train.yaml")]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # waiting threads spin: that is no start-up
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", "import torch, torch._dynamo"], check=True)
    return json.loads(done.stdout), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


@pytest.mark.parametrize("name", UNUSED)
def test_what_a_step_does_not_use_is_not_imported_for_it(started, name):
    assert "torch" in started[0]["modules"]  # the list is what it should be
    assert name not in started[0]["modules"]


def test_the_first_step_is_done_within_ten_seconds(started):
    assert started[0]["seconds"] <= 10


def test_start_up_is_mostly_torchs_own(started):
    """torch and what its optimisers import take 1.5-2 s, all up to the first step 3 s; a heavy import would show."""
    assert started[0]["seconds"] <= 3.5 * started[1]
