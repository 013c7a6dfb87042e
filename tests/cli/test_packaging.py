"""What is imported is declared, `import sward` is light, and a wheel has what the checkout has beside its packages."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cli.missing_packages import install_hint

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"sward", "pipeline", "flows"}
WITHOUT_EXTRA = {
    "pipeline/maintenance",  # writes files of the checkout, in the environment of `make`
    "sward/mwad/kernels.py",  # Triton comes with torch's CUDA builds, each with the version it needs
    "sward/mwad/triton_attention_terms.py",
}


def canonical(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def imported():
    """Top-level module -> files that import it."""
    found = {}
    for path in (p for package in OWN for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                found.setdefault(name.partition(".")[0], []).append(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | OWN}


def test_every_package_that_is_imported_is_declared():
    extras = [r for name, of in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs") for r in of]
    declared = {canonical(r) for r in [*PROJECT["dependencies"], *extras]}
    installed = packages_distributions()
    missing = {}
    for module, files in imported().items():
        names = {canonical(n) for n in installed.get(module, [module])}
        if not names & declared and not all(f.startswith(tuple(WITHOUT_EXTRA)) for f in files):
            missing[module] = files[:3]
    assert not missing


def test_importing_sward_takes_torch_at_most_and_nothing_of_the_pipeline():
    code = "import sys, sward; from sward import MWAD, PDR; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "torch" in done.stdout.split()
    heavy = {"pipeline", "zarr", "matplotlib", "timm", "segmentation_models_pytorch", "sklearn", "tensorboard", "sam2"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "extra"),
    [("segmentation_models_pytorch.base", "models"), ("sklearn", "report"), ("wandb", "wandb"), ("mlflow", "mlflow")],
)
def test_a_missing_package_names_the_extra_that_brings_it(module, extra, monkeypatch):
    declared = PROJECT["optional-dependencies"].items()
    lines = [f'{r} ; extra == "{name}"' for name, of in declared for r in of]
    monkeypatch.setattr("pipeline.cli.missing_packages.requires", lambda name: lines)
    assert f"pip install 'sward[{extra}]'" in install_hint(ModuleNotFoundError("gone", name=module))
    assert install_hint(ModuleNotFoundError("gone", name="a_typing_error")) is None


def test_a_shipped_configuration_is_found_from_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", "configs/quickstart/cache.yaml", "--set", "size=[100,64]"]) == 1
    assert "use 128" in capsys.readouterr().err  # the file was read; the setting is what is wrong


@pytest.mark.slow
def test_a_wheel_has_cards_configurations_and_the_pocket_teacher(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, str(ROOT)], check=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    shipped = [
        *ROOT.glob("configs/**/*.yaml"),
        *ROOT.glob("data/*/card.yaml"),
        ROOT / "data/pocket-teacher/trunk.safetensors",
    ]
    assert {f"pipeline/shipped/{p.relative_to(ROOT)}" for p in shipped} <= names
    assert not [n for n in names if "/caches/" in n or n.startswith("tests/")]
