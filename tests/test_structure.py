"""The house rules that a program can check: small files, short functions, documented names, nothing left for later."""

import ast
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sward", "pipeline", "flows")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def parsed(path):
    return ast.parse(path.read_text())


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def short(path):
    return str(path.relative_to(ROOT))


def test_no_module_is_longer_than_250_lines():
    long = {short(path): n for path in MODULES if (n := len(path.read_text().splitlines())) > 250}
    assert not long


def test_the_median_function_has_at_most_12_lines():
    lengths = [f.end_lineno - f.lineno + 1 for path in MODULES for f in functions(parsed(path))]
    assert len(lengths) > 100
    assert statistics.median(lengths) <= 12


def test_every_module_opens_with_a_docstring():
    assert not [short(path) for path in MODULES if path.read_text().strip() and not ast.get_docstring(parsed(path))]


def test_every_function_says_the_types_of_its_arguments():
    bare = [
        f"{short(path)}:{f.lineno} {f.name}({argument.arg})"
        for path in MODULES
        for f in functions(parsed(path))
        for argument in f.args.posonlyargs + f.args.args + f.args.kwonlyargs
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    assert not bare


def test_every_public_class_has_a_docstring():
    classes = [(path, node) for path in MODULES for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    bare = [
        f"{short(path)}:{c.lineno} {c.name}" for path, c in classes if c.name[0] != "_" and not ast.get_docstring(c)
    ]
    assert not bare


def test_nothing_is_left_for_later():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: the list of the repository's files is unknown")
    word = "TO" + "DO"
    texts = [ROOT / name for name in listed.stdout.splitlines() if not name.endswith((".png", ".safetensors"))]
    assert not [short(p) for p in texts if p.is_file() and word in p.read_text(errors="ignore")]
