"""Writes the generated pages of the documentation; a test compares them with what this writes.

python -m pipeline.maintenance.reference_pages     # writes all of them again
"""

from collections.abc import Callable
from pathlib import Path

from pipeline.files import write_atomic
from pipeline.maintenance import (
    command_line_page,
    configuration_page,
    methods_page,
    python_api_page,
    students_page,
    teachers_page,
)

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/configuration.md": configuration_page.page,
    "docs/reference/command-line.md": command_line_page.page,
    "docs/reference/python-api.md": python_api_page.page,
    "docs/explanation/methods.md": methods_page.page,
    "docs/reference/students.md": students_page.page,
    "docs/reference/teachers.md": teachers_page.page,
}
NOTE = "<!-- written by `python -m pipeline.maintenance.reference_pages`; a test compares -->\n\n"


def text(name: str) -> str:
    """What a generated page must contain."""
    return NOTE + PAGES[name]()


def main() -> None:
    """Write every page and print its path."""
    for name in PAGES:
        write_atomic(Path(name), text(name))
        print(name)


if __name__ == "__main__":
    main()
