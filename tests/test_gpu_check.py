"""The GPU kit on the CPU, in miniature: every check runs, so that none has rotted when a GPU is there."""

import json
from pathlib import Path

import pytest
import torch
from gpu_check import __main__ as kit
from gpu_check.bench import Bench, require

pytestmark = pytest.mark.filterwarnings("ignore")  # as in the command, where warnings are no errors


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(torch.device("cpu"), tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("name", kit.CHECKS)
def test_every_check_passes_on_the_cpu(name: str, bench: Bench) -> None:
    result = kit.checked(kit.CHECKS[name], bench)
    assert result["ok"], result["trace"]
    assert (kit.CHECKS[name].__doc__ or "").strip()
    json.dumps(result)


def test_the_results_are_one_json_and_one_page_and_a_failure_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: Bench) -> dict[str, int]:
        """A check that fails."""
        require(False, "s4 differs by 2.0e-01")
        return {}

    monkeypatch.setattr(kit, "CHECKS", {"broken": broken, "machine": kit.machine})
    assert not kit.run_checks("cpu", tmp_path / "out", ["broken", "machine"])
    found = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert (found["broken"]["ok"], found["machine"]["ok"]) == (False, True)
    assert "cudnn.allow_tf32" in found["machine"]["facts"]
    page = (tmp_path / "out" / "gpu-check.md").read_text()
    assert "**failed: broken**" in page
    assert "s4 differs by 2.0e-01" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_the_kit_says_so_instead_of_checking_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kit.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "device: expected auto or one of cpu, found cuda" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
