"""docs/architecture.md names files and folders that exist, and every room of the three packages."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"(?s)^```.*?^```", "", TEXT, flags=re.MULTILINE))
PATH = re.compile(r"[\w.-]+/[\w./-]*|[\w.-]+\.(py|toml|md)")
PATHS = sorted({span for span in SPANS if PATH.fullmatch(span)})


def test_every_path_in_backticks_exists():
    assert len(PATHS) > 80
    assert not [path for path in PATHS if not (ROOT / path).exists()]


def test_a_folder_is_written_with_a_slash_at_its_end():
    assert not [path for path in PATHS if (ROOT / path).is_dir() != path.endswith("/")]


def test_every_room_is_described():
    files = [file for package in ("sward", "pipeline", "flows") for file in (ROOT / package).rglob("__init__.py")]
    rooms = {f"{file.parent.relative_to(ROOT)}/" for file in files}
    assert not sorted(rooms - set(PATHS))
