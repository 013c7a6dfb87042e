"""The problems of a data set, collected and told at once, each kind with its remedy."""

from collections import defaultdict
from dataclasses import dataclass

SHOWN = 20  # problems listed per kind; the rest is counted

KINDS = {
    "card": "the card does not check; correct card.yaml",
    "split": "the split cannot be made; name one of the card's splits, or write its lists",
    "name": "a file's name is no line of text; rename it, e.g. with convmv -f latin1 -t utf8 --notest -r FOLDER",
    "missing image": "an id has no image; add the file or take the id out of the split",
    "missing mask": "an image has no mask; add the file or take the id out of the split",
    "ambiguous": "one id matches several files; keep one of them (of masks that are parts: several_masks: union)",
    "second mask": (
        "a file looks like one more mask of an image; match it too (masks: masks/{id}_mask*.png with "
        "several_masks: union), or name it in skip"
    ),
    "two subsets": "an id stands in more than one place of the split; keep it in one",
    "empty": "a subset has no samples; correct the split in the card",
    "sequences": "the sequence table does not fit; it needs a frame,sequence line for each id of the split",
    "leak": "a sequence lies in several subsets of this split; draw it anew (pipeline.maintenance.lists)",
    "same bytes": "ids share one image, counted twice; keep one, e.g. by duplicates: first",
    "unreadable": "the file cannot be decoded in full; fetch or export it again",
    "unsupported": "the file can be read in several ways; convert it or complete the card, as said",
    "sizes differ": "image and mask must have the same height and width; export them again",
    "mask values": "the mask holds what the card's encoding does not name; correct the card or the mask",
    "nothing labelled": "there is nothing to learn or to measure where every pixel is ignored; take the id out",
}


@dataclass(frozen=True)
class Problem:
    """kind: a key of ``KINDS``. subject: the file or id. found: what was found there."""

    kind: str
    subject: str
    found: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.found}"


class DatasetError(ValueError):
    """All that is wrong with a data set, by kind, with file names and what to do."""

    def __init__(self, dataset: str, problems: list[Problem]) -> None:
        super().__init__(dataset, problems)  # what pickle makes it of again, in another process
        self.dataset, self.problems = dataset, problems

    def __str__(self) -> str:
        return describe(self.dataset, self.problems)


def describe(dataset: str, problems: list[Problem]) -> str:
    """The text of the error: per kind its count, the remedy and the first ``SHOWN`` problems."""
    by_kind = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem)
    lines = [f"data set {dataset}: {len(problems)} problem{'s' * (len(problems) != 1)}"]
    for kind, remedy in KINDS.items():
        if found := by_kind.get(kind):
            lines.append(f"  {kind} ({len(found)}): {remedy}")
            lines += [f"    {problem}" for problem in found[:SHOWN]]
            lines += [f"    ... and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
    return "\n".join(lines)


def shortened(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
