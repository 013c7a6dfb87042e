"""Lists the files that a card's patterns match, by id, and names the ones that are passed over."""

import csv
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline import paths
from pipeline.datasets.problems import Problem, shortened
from pipeline.datasets.text_files import TextError, read_text

Found = dict[str, list[Path]]  # id -> files; more than one where a pattern has a wildcard
SYSTEM = {"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
PICTURES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".npy", ".npz", ".dcm", ".nii", ".gz"),
    *(".mat", ".jp2", ".pgm", ".ppm", ".avif", ".heic"),
)


@dataclass(frozen=True)
class Tree:
    """The files below a folder, linked folders followed. hidden: what is never a sample. errors: unreadable folders."""

    start: Path
    files: list[Path]
    hidden: list[Path]
    errors: list[OSError]


@dataclass(frozen=True)
class Match:
    """A file that a pattern matches. class_name: what stands for {class}; empty without one."""

    id: str
    path: Path
    class_name: str = ""


def list_tree(start: Path, named: str = "") -> Tree:
    """All files below ``start``, in order. Hidden parts that the pattern ``named`` spells out are not passed over."""
    files: list[Path] = []
    hidden: list[Path] = []
    errors: list[OSError] = []
    for folder, folders, names in _walk(start, errors) if start.exists() else ():
        for name in sorted([*folders, *names]):
            if _is_hidden(name) and name not in named.split("/"):
                hidden.append(Path(folder, name))
        folders[:] = [n for n in folders if not _is_hidden(n) or n in named.split("/")]
        found = [Path(folder, n) for n in sorted(names) if not _is_hidden(n) or n in named.split("/")]
        files += [path for path in found if not _is_special(path)]
        hidden += [path for path in found if _is_special(path)]
    return Tree(start, files, hidden, errors)


def _walk(start: Path, errors: list[OSError]) -> Iterator[tuple[str, list[str], list[str]]]:
    """As ``os.walk`` with linked folders followed, but never into a folder that holds the link."""
    for folder, folders, names in os.walk(start, onerror=errors.append, followlinks=True):
        yield folder, folders, names  # the caller may take folders away
        here = os.path.realpath(folder)
        folders[:] = [n for n in sorted(folders) if not _holds(os.path.realpath(Path(folder, n)), here)]


def _holds(folder: str, inner: str) -> bool:
    return inner == folder or inner.startswith(folder.rstrip("/") + "/")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name in SYSTEM or name.lower() in ("thumbs.db", "desktop.ini")


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device, which reading might wait for without end; a dead link is none."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a dead link, or one that may not be looked at: reading it says why
        return False


def match_files(tree: Tree, pattern: str) -> list[Match]:
    """The files of a tree that match a pattern, e.g. ``images/{id}.png``.

    ``{id}`` matches any text, slashes included; ``{class}`` and ``*`` match within one name; the case of the
    extension does not matter. Without ``{id}``, the id is the file's place in the set, without extension.
    """
    start = prefix(pattern)
    matcher = re.compile(expression(pattern.removeprefix(start).lstrip("/")), re.DOTALL)
    places = ((path, matcher.fullmatch(path.relative_to(tree.start).as_posix())) for path in tree.files)
    found = ((path, {"id": _place(start, tree, path)} | m.groupdict()) for path, m in places if m)
    return [Match(groups["id"], path, groups.get("class_name") or "") for path, groups in found]


def _place(start: str, tree: Tree, path: Path) -> str:
    inner = path.relative_to(tree.start)
    return (Path(start) / inner.with_suffix("")).as_posix()


def start_of(folder: Path, pattern: str) -> Path:
    """The folder in which the files of a pattern are looked for."""
    start = prefix(pattern)
    outside = start.startswith(("~", "$")) and not (folder / start).exists()
    return paths.read_path(folder / (paths.expand(start) if outside else start))


def prefix(pattern: str) -> str:
    """The folders of a pattern before its first placeholder: ``images`` of ``images/{id}.png``; ``${NAME}`` is none."""
    fixed = re.split(r"(?<!\$)\{|\*", pattern)[0]
    return fixed.rpartition("/")[0]


def expression(pattern: str) -> str:
    """The regular expression of a pattern."""
    body, suffix = re.fullmatch(r"(.*?)((?:\.[A-Za-z0-9]+)*)", pattern, re.DOTALL).groups()  # type: ignore[union-attr]
    placeholders = {"{id}": "(?P<id>.+)", "{class}": "(?P<class_name>[^/]+)", "*": "[^/]*"}
    parts = re.split(r"(\{id\}|\{class\}|\*)", body)
    return "".join(placeholders.get(part, re.escape(part)) for part in parts) + f"(?i:{re.escape(suffix)})"


def is_skipped(path: Path, folder: Path, skip: Iterable[str]) -> bool:
    """Whether a card's ``skip`` names the file."""
    place = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    return any(place == pattern or fnmatchcase(place, pattern) for pattern in skip)


def same_name(name: str) -> str:
    """A name in the form in which names are compared: composed letters (NFC), where some systems decompose them."""
    return unicodedata.normalize("NFC", name)


def passed_over(hidden: Iterable[Path], unmatched: Iterable[Path], folder: Path) -> list[str]:
    """Notes that count and name the files that are no samples, hidden ones and ones that no pattern matches."""
    notes = []
    for paths_, what in (
        (hidden, "hidden or of the system"),
        (unmatched, "pictures that no pattern of the card matches"),
    ):
        places = sorted(p.relative_to(folder).as_posix() if p.is_relative_to(folder) else str(p) for p in set(paths_))
        if places:
            notes.append(f"passed over, {what} ({len(places)}): {shortened(places)}")
    return notes


def read_sequences(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """Frame -> sequence of a table with columns ``frame`` and ``sequence``, and what is wrong with it.

    Columns are divided by commas, semicolons or tabs, as spreadsheets write them; blanks around them do not count.
    """
    if not path.is_file():
        return {}, [Problem("sequences", str(path), "does not exist")]
    try:
        text = read_text(path)
    except TextError as error:
        return {}, [Problem("sequences", str(path), str(error).partition(": ")[2])]
    divider = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=divider, skipinitialspace=True))
    except csv.Error as error:
        return {}, [Problem("sequences", str(path), f"is no table: {error}")]
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"frame", "sequence"} <= set(columns):
        return {}, [
            Problem("sequences", str(path), f"has columns {rows[0] if rows else []}; expected frame and sequence")
        ]
    table: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows[1:], start=2):
        named = dict(zip(columns, map(str.strip, row), strict=False))
        frame, sequence = named.get("frame", ""), named.get("sequence", "")
        if row and not (frame and sequence):
            found = f"line {number}: {divider.join(row)!r} has no frame or no sequence"
            problems.append(Problem("sequences", str(path), found))
        elif row and table.setdefault(frame, sequence) != sequence:
            problems.append(Problem("sequences", str(path), f"frame {frame} is in two sequences"))
    return table, problems
