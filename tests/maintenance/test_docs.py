"""README and documentation keep to the program: blocks are parsed, commands exist, links and paths lead somewhere."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from pipeline.cache.config import CacheConfig
from pipeline.cache.store import Store
from pipeline.cli.main import parser
from pipeline.config import load_config
from pipeline.datasets.card import Card
from pipeline.experiments.compare_config import CompareConfig
from pipeline.experiments.quality import QualityConfig
from pipeline.maintenance.command_line_page import verbs
from pipeline.maintenance.figures import DISTILLED, FOLDER, INKS, SAVED, picture
from pipeline.training.config import TrainConfig
from sward.methods import MethodConfig

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
FILES += sorted((ROOT / "docs").rglob("*.md"))
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in FILES}
FENCE = re.compile(r"^( *)```(\{?[\w-]*\}?)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
MODELS = {
    "card": Card,
    "cache": CacheConfig,
    "train": TrainConfig,
    "compare": CompareConfig,
    "quality": QualityConfig,
}  # name of a file in a YAML block -> what it must be
READS = {
    "plan": CacheConfig,
    "extract": CacheConfig,
    "train": TrainConfig,
    "fit-head": TrainConfig,
    "compare": CompareConfig,
    "quality": QualityConfig,
}
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
RIVALS = {20: "twenty", 21: "twenty-one", 22: "twenty-two"}  # more: as a number
FOLDERS = ("sward", "pipeline", "flows", "tests", "docs", "configs", "results")  # below them a path must exist
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]")


def blocks(page, language):
    return [re.sub(rf"^{m[1]}", "", m[3], flags=re.MULTILINE) for m in FENCE.finditer(PAGES[page]) if m[2] == language]


def named_yaml(page):
    """Name in the first line -> text, of every YAML block."""
    return {block.split("\n")[0].removeprefix("# "): block for block in blocks(page, "yaml")}


def commands(page):
    """Every `sward` command of the page's shell blocks, as words after `sward`."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["sward"]]


def text(page):
    """The page without code blocks."""
    return FENCE.sub("", PAGES[page])


@pytest.fixture
def desk(tmp_path, monkeypatch, request):
    """A folder with the page's YAML blocks as files, and the checkout's configurations and data beside them."""
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, content in named_yaml(request.getfixturevalue("page")).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pages_with(find):
    return [page for page in PAGES if find(page)]


def test_the_readme_can_be_read_in_five_minutes():
    assert len(PAGES["README.md"].splitlines()) <= 150


def prefect_files(page, key="deployments"):
    """The page's YAML blocks that are files for Prefect: name -> entries of ``deployments`` or ``automations``."""
    files = {name: yaml.safe_load(text) for name, text in named_yaml(page).items() if name.startswith("prefect")}
    return {name: content[key] for name, content in files.items() if key in content}


@pytest.mark.parametrize("page", pages_with(named_yaml))
def test_yaml_blocks_are_the_configurations_that_their_first_line_names(page, desk):
    for name in (name for name in named_yaml(page) if not name.startswith("prefect")):
        load_config(MODELS[Path(name).stem], name)


@pytest.mark.parametrize("page", pages_with(prefect_files))
def test_deployments_in_yaml_blocks_name_flows_configurations_times_and_triggers_that_exist(page):
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.events import DeploymentEventTrigger
    from prefect.utilities.schema_tools.validation import validate

    usual = {d["entrypoint"]: d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    flows = {entrypoint.split(":")[1].replace("_", "-") for entrypoint in usual}
    for deployment in (d for of in prefect_files(page).values() for d in of):
        file, name = deployment["entrypoint"].split(":")
        flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
        validate(deployment["parameters"], flow.parameters.model_dump(), raise_on_error=True)
        assert deployment["work_pool"] == usual[deployment["entrypoint"]]["work_pool"]
        schedules, triggers = deployment.get("schedules", []), deployment.get("triggers", [])
        assert schedules or triggers
        assert all(CronSchedule.model_validate(schedule) for schedule in schedules)
        for trigger in map(DeploymentEventTrigger.model_validate, triggers):
            assert trigger.match_related.root["prefect.resource.name"] in flows


@pytest.mark.parametrize("page", pages_with(lambda page: prefect_files(page, "automations")))
def test_automations_in_yaml_blocks_are_automations(page):
    from prefect.events.schemas.automations import AutomationCore

    for automation in (a for of in prefect_files(page, "automations").values() for a in of):
        assert AutomationCore.model_validate(automation).actions


@pytest.mark.parametrize("page", ["docs/getting-started/quickstart.md"])
def test_the_quickstart_explains_the_shipped_configurations(page, desk):
    for name in named_yaml(page):
        shown, shipped = yaml.safe_load(Path(name).read_text()), yaml.safe_load(Path("configs", name).read_text())
        links = {key: value for key, value in shipped.items() if str(value).startswith("configs/")}
        assert shown | links == shipped


@pytest.mark.parametrize("page", pages_with(commands))
def test_sward_commands_are_accepted_by_the_parser_and_their_settings_by_the_models(page, desk, capsys):
    for words in commands(page):
        try:
            args = parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"sward {' '.join(words)}: {capsys.readouterr().err}")
        if args.verb in READS:
            load_config(READS[args.verb], args.config, args.set)
        if getattr(args, "train", None):
            load_config(TrainConfig, args.train)


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_options_in_running_text_exist(page):
    known = verbs()
    for span in re.findall(r"`sward ([^`]+)`", text(page)):
        verb, *rest = span.split()
        if verb in ("VERB", "--help", "--version"):
            continue
        assert verb in known, span
        options = {option for action in known[verb]._actions for option in action.option_strings}
        assert not [word for word in rest if word.startswith("--") and word not in options], span


@pytest.mark.parametrize("page", pages_with(lambda page: "pip install" in PAGES[page]))
def test_extras_that_are_installed_exist(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in (line for line in PAGES[page].splitlines() if "pip install" in line):
        for names in re.findall(r"(?:sward|\.|\))\[([\w,-]+)\]", line.split("pip install")[1]):
            assert set(names.split(",")) <= set(extras), line


@pytest.mark.parametrize("page", PAGES)
def test_tables_have_a_head_without_which_they_are_shown_as_text(page):
    for table in re.findall(r"(?:^\|.*\n)+", text(page) + "\n", re.MULTILINE):
        head, rule, *_ = [*table.splitlines(), ""]
        assert re.fullmatch(r"\|( *:?-+:? *\|)+", rule), head
        assert head.replace("\\|", "").count("|") == rule.count("|"), head


@pytest.mark.parametrize("page", pages_with(lambda page: "prefect deployment run" in PAGES[page]))
def test_prefect_commands_name_deployments_and_files_that_exist(page):
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {d["entrypoint"].split(":")[1].replace("_", "-") + f"/{d['name']}" for d in deployed}
    lines = re.findall(r"^prefect deployment run (\S+) +-p config=(\S+)", PAGES[page], re.MULTILINE)
    assert lines
    assert not [line for line in lines if line[0] not in flows or not (ROOT / line[1]).is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_and_modules_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^ *)make ([a-z0-9-]+)(?=`| {2}| *#|$)", PAGES[page], re.MULTILINE)
    assert set(named) <= targets
    modules = re.findall(r"python -m ((?:pipeline|flows|sward)[\w.]*)", PAGES[page])
    files = [ROOT.joinpath(*name.split(".")) for name in modules]
    assert not [
        file for file in files if not file.with_suffix(".py").is_file() and not (file / "__main__.py").is_file()
    ]


@pytest.mark.parametrize("page", pages_with(lambda page: blocks(page, "python")))
def test_python_blocks_parse_and_their_imports_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                assert all(importlib.import_module(alias.name) for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in (a or b for a, b in LINK.findall(text(page))):
        target, _, heading = link.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.is_file(), link
        if heading:
            assert heading in anchors(file.read_text()), link


def anchors(content):
    """The anchors that GitHub gives the headings of a page."""
    headings = HEADING.findall(FENCE.sub("", content))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"docs/architecture.md"}))  # which has a test file of its own
def test_paths_in_backticks_exist(page):
    spans = re.findall(r"`([^`\n]+)`", text(page))
    assert not [span for span in spans if PATH.fullmatch(span) and not (ROOT / span).exists()]


def test_every_page_is_reached_from_the_index():
    reached, waiting = set(), [ROOT / "docs/index"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        file = f"{page.relative_to(ROOT)}.md"
        trees = "\n".join(blocks(file, "{toctree}") if file in PAGES else []).splitlines()  # a notebook has none
        found = [(page.parent / line).resolve() for line in trees if line and not line.startswith(":")]
        waiting += [name for name in found if name not in reached]
    assert reached == {path.with_suffix("") for ending in ("md", "ipynb") for path in ROOT.glob(f"docs/**/*.{ending}")}


def test_the_number_of_rivals_is_right():
    kinds = [config.model_fields["kind"].default for config in get_args(get_args(MethodConfig)[0])]
    count = len(set(kinds) - {"plain", "sward", "combined"})
    assert f"{RIVALS.get(count, count)} rivals" in PAGES["README.md"]


def test_files_for_contributors_agree_with_the_checkout():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    targets = dict(re.findall(r"^([\w-]+):(.*\n(?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    check = "".join(targets[name] for name in ["check", *targets["check"].split("#")[0].split()])
    assert {Path(hook["entry"].split()[0]).name for hook in hooks} == set(re.findall(r"\$\(BIN\)/([\w-]+)", check))
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["run"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    forms = list((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert all("body" in yaml.safe_load(form.read_text()) for form in forms if form.stem != "config")


@pytest.mark.parametrize("theme", INKS)
def test_the_readmes_picture_shows_the_saved_results(theme):
    """Labels and numbers are compared; curves are left out, because another version of matplotlib draws others."""
    texts = [
        re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        for svg in ((ROOT / FOLDER / f"sequences-{theme}.svg").read_text(), picture(ROOT / SAVED, INKS[theme]))
    ]
    assert texts[0] == texts[1]
    assert any(DISTILLED in text for text in texts[0])


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_the_reader_in_the_store_format_reads_a_store(codec, tmp_path):
    from tiny import extract_quietly, tiny_cache

    config = tiny_cache(tmp_path, codec={"kind": codec})
    extract_quietly(config)
    block = next(b for b in blocks("docs/reference/store-format.md", "python") if b.startswith("# read_store.py"))
    reader = {}
    exec(block, reader)
    store = Store(config.store)
    for level in store.channels:
        found = reader["read"](config.store, level)
        assert len(found) == sum(map(len, store.records.values()))
        for subset, records in store.records.items():
            for record in records:
                wanted = store.features(record, [level])[level].numpy()
                np.testing.assert_allclose(found[subset, record.row], wanted.reshape(wanted.shape[-3:]), atol=1e-6)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", str(ROOT / "docs"), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "reference" / "configuration.html").is_file()
