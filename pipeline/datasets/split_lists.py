"""Reads lists of ids as people write them: ids, file names or paths, with blanks, marks and line ends of any system."""

import re
from collections import defaultdict
from pathlib import Path

from pipeline import paths
from pipeline.datasets.file_listing import Found, same_name
from pipeline.datasets.problems import DatasetError, Problem, shortened
from pipeline.datasets.split_rules import SUBSETS, Listed, Subset
from pipeline.datasets.text_files import TextError, read_text

Membership = list[tuple[Subset, str]]  # (subset, id), in order of subset, then id
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"  # marks that joining files, web pages and chats leave at the ends of lines


def list_path(folder: Path, split: str, subset: Subset) -> Path:
    """The committed list of one subset, in ``data/...`` form."""
    return folder / "splits" / f"{split}.{subset}.txt"


def read_lists(split: str, rule: Listed, folder: Path, images: Found, masks: Found) -> Membership:
    """The (subset, id) pairs of a split's lists.

    Raises:
        DatasetError: a list of train or val is absent, a list is no text, or a line fits several ids.
    """
    places: dict[Subset, Path] = {s: list_path(folder, split, s) for s in SUBSETS}
    if rule.files:
        places = {s: folder / name for s, name in rule.files.items()}
    files = {s: paths.read_path(path) for s, path in places.items()}
    needed = {"train", "val", *rule.files}
    if absent := [files[s] for s in files if s in needed and not files[s].is_file()]:
        raise DatasetError(str(folder), [Problem("split", str(path), "does not exist") for path in absent])
    index = NameIndex(images, masks)
    pairs: Membership = []
    problems: list[Problem] = []
    for subset in (s for s in SUBSETS if s in files and files[s].is_file()):
        try:
            lines = read_text(files[subset]).splitlines()
        except TextError as error:
            problems.append(Problem("split", str(files[subset]), str(error).partition(": ")[2]))
            continue
        for number, line in enumerate(lines, start=1):
            found = index.ids(line, subset) if visible(line) else []
            if len(found) > 1:
                text = f"line {number}: {line.strip()!r} fits {len(found)} ids: {shortened(found)}; write the whole id"
                problems.append(Problem("split", str(files[subset]), text))
            pairs += [(subset, i) for i in found[:1]]
    if problems:
        raise DatasetError(str(folder), problems)
    return pairs


def visible(line: str) -> str:
    """A line without blanks and invisible marks at its ends."""
    return line.strip().strip(INVISIBLE).strip()


class NameIndex:
    """Ids by everything that a list may call them: the id, the path of image or mask, the ends of these."""

    def __init__(self, images: Found, masks: Found) -> None:
        self.known = {*images, *masks}
        self.composed = {same_name(i): i for i in self.known}
        self.by_end: dict[str, set[str]] = defaultdict(set)
        for found in (images, masks):
            for i, files in found.items():
                for path in files:
                    self._add(i, path)

    def _add(self, i: str, path: Path) -> None:
        parts = same_name(path.as_posix()).split("/")
        for n in range(1, min(len(parts), 8)):
            end = "/".join(parts[-n:])
            self.by_end[end].add(i)
            self.by_end[end.removesuffix(path.suffix)].add(i)

    def ids(self, line: str, subset: str) -> list[str]:
        """The ids that a line may mean: one, several, or the line itself where nothing fits."""
        for text in dict.fromkeys((line, line.strip(), visible(line).strip("\"'"))):
            for name in (text, f"{subset}/{text}"):
                if name in self.known or same_name(name) in self.composed:
                    return [name if name in self.known else self.composed[same_name(name)]]
        text = visible(line).strip("\"'").replace("\\", "/")
        return self._by_path(text, subset) or self._by_pair(text, subset) or [visible(line)]

    def has_folder_of(self, line: str) -> bool:
        """Whether a path's last folder is a file's too; else only its name fits, which another folder may have."""
        text = visible(line).strip("\"'").replace("\\", "/")
        return "/".join(same_name(text).split("/")[-2:]) in self.by_end

    def _by_pair(self, text: str, subset: str) -> list[str]:
        """The id of a line that names an image and its mask."""
        words = re.split(r"[\s,;]+", text)
        found = [self._by_path(word, subset) for word in words]
        return found[0] if len(words) == 2 and len(found[0]) == 1 and found[0] == found[1] else []

    def _by_path(self, text: str, subset: str) -> list[str]:
        """The ids of the longest end of a path that fits any, e.g. of ``/data/set/train/a.png``.

        A bare file name stands for an id in a folder only if the list names no other folder.
        """
        parts = same_name(text).removeprefix("./").strip("/").split("/")
        for n in range(len(parts)):
            found = self.by_end.get("/".join(parts[n:]), set())
            if n and n == len(parts) - 1:
                found = {i for i in found if "/" not in i}
            if found:
                own = sorted(i for i in found if i.startswith(f"{subset}/"))
                return own if len(own) == 1 else sorted(found)
        return []
