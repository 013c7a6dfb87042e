"""Generated pages of the documentation are what the models, the parser and the docstrings say today."""

import importlib
import inspect
from pathlib import Path
from typing import get_args

import pytest

from pipeline.maintenance.command_line_page import verbs
from pipeline.maintenance.configuration_page import ROOTS, nested
from pipeline.maintenance.python_api_page import SECTIONS
from pipeline.maintenance.reference_pages import PAGES, main, text
from sward.methods import MethodConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "docs" / "reference" / "configuration.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_its_script_writes(name):
    assert (ROOT / name).read_text() == text(name)


@pytest.mark.parametrize("heading", ROOTS)
def test_every_key_of_a_file_is_in_the_reference(heading):
    section = CONFIGURATION.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert not [key for key in ROOTS[heading].model_fields if f"\n| `{key}` | " not in section]


@pytest.mark.parametrize("model", nested(), ids=lambda model: model.__name__)
def test_every_key_of_a_group_is_in_the_reference(model):
    section = CONFIGURATION.split(f"\n### {model.__name__}\n")[1].split("\n### ")[0]
    assert not [key for key in model.model_fields if f"\n| `{key}` | " not in section]


def test_no_group_is_missing():
    """Found anew from the schemas, which name every model that a file may contain."""
    schemas = [schema for root in ROOTS.values() for schema in root.model_json_schema().get("$defs", {}).items()]
    defined = {name for name, schema in schemas if "properties" in schema}
    defined -= {root.__name__ for root in ROOTS.values()}
    assert defined == {model.__name__ for model in nested()}


def test_every_verb_and_option_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    for name, verb in verbs().items():
        section = page.split(f"\n## sward {name}\n")[1].split("\n## ")[0]
        options = [
            option for action in verb._actions for option in action.option_strings if option not in ("-h", "--help")
        ]
        assert not [option for option in options if f"| `{option}" not in section]


def test_every_method_has_terms_sources_and_what_it_reads():
    page = (ROOT / "docs" / "explanation" / "methods.md").read_text()
    for config in get_args(get_args(MethodConfig)[0]):
        kind = config.model_fields["kind"].default
        section = page.split(f"\n## {kind}\n")[1].split("\n## ")[0]
        wanted = ["Terms", "Reads", "Random draws", "Parameters and buffers"]
        wanted += [] if kind in ("plain", "combined") else ["Paper and code", "Differences"]
        assert not [heading for heading in wanted if f"**{heading}" not in section]


@pytest.mark.parametrize("name", [name for _, names in SECTIONS.values() for name in names])
def test_the_python_reference_has_every_parameter_and_public_method_as_text(name):
    page = (ROOT / "docs" / "reference" / "python-api.md").read_text()
    section = page.split(f"\n### `{name}`\n")[1].split("\n### ")[0].split("\n## ")[0]
    module, _, own = name.rpartition(".")
    found = getattr(importlib.import_module(module), own)
    methods = [n for n, v in vars(found).items() if inspect.isfunction(v) and v.__doc__ and not n.startswith("_")]
    assert not [method for method in methods if f"{own}.{method}(" not in section]
    made = found if inspect.isfunction(found) else vars(found).get("__init__")
    call = section.split("```text\n")[1].split("```")[0]
    assert all(f"{n}: " in call for n in (inspect.signature(made).parameters if made else ()) if n != "self")


def test_the_python_reference_can_be_read_without_the_site():
    page = (ROOT / "docs" / "reference" / "python-api.md").read_text()
    assert "{eval-rst}" not in page
    assert "- `seed`: the run's seed" in page


def test_the_pages_are_written_where_they_belong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main()
    assert capsys.readouterr().out.split() == list(PAGES)
    assert all((tmp_path / name).read_text() == text(name) for name in PAGES)
