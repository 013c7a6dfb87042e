"""Chooses the mask of each id: its file or files, its annotations; and decides what white is in binary masks."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.datasets.annotations.coco import CocoMask
from pipeline.datasets.annotations.labelme import LabelMeMask, names_in
from pipeline.datasets.annotations.names import Names
from pipeline.datasets.card import Card
from pipeline.datasets.formats.large import few_at_a_time
from pipeline.datasets.image_files import Reading, open_mask
from pipeline.datasets.mask_encodings import Binary, Encoding
from pipeline.datasets.masks.binary import facts_of
from pipeline.datasets.masks.decision import AMBIGUOUS, decide
from pipeline.datasets.masks.facts import GreyFacts
from pipeline.datasets.masks.files import FileMask, Layer, LayeredMask, Mask
from pipeline.datasets.pairing import Pairs
from pipeline.datasets.problems import Problem, shortened

THREADS = 8  # decoding and hashing release the GIL; more threads only help slow disks


@dataclass(frozen=True)
class MaskChoice:
    """Makes the masks of a set's ids.

    Attributes:
        encodings: mask file -> its encoding, where files have decided it.
        problems: mask file -> what speaks against deciding it.
        notes: what was decided, where a user should know it.
    """

    card: Card
    pairs: Pairs
    names: Names
    encodings: dict[Path, Encoding] = field(default_factory=dict)
    problems: dict[Path, Problem] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def mask(self, i: str) -> Mask:
        """The mask of an id that has one, or several that the card unites."""
        if i in self.pairs.entries:
            coco, entry = self.pairs.entries[i]
            return CocoMask(coco.path, *coco.images[entry], self.names, self.card.overlap)
        paths = self.pairs.masks[i]
        if paths[0].suffix.lower() == ".json":
            return self._labelme(i, paths[0])
        if len(paths) == 1 and not self.pairs.classes:
            return FileMask(paths[0], self.encoding(paths[0]))
        layers = tuple(self._layer(path) for path in sorted(paths, key=self._order))
        return LayeredMask(layers, self.card.overlap, any(path in self.pairs.parts for path in paths))

    def encoding(self, path: Path) -> Encoding:
        """How a mask file is read."""
        return self.encodings.get(path, self.card.encoding)

    def _labelme(self, i: str, path: Path) -> LabelMeMask:
        image = next(iter(self.pairs.images.get(i, [])), path)
        reading = Reading(self.card.value_range, self.card.orientation == "stored")
        return LabelMeMask(path, self.names, self.card.overlap, image, reading)

    def _layer(self, path: Path) -> Layer:
        name = self.pairs.classes.get(path, "")
        train_id = self.card.classes.index(name) if name in self.card.classes else -1
        return Layer(path, self.encoding(path), train_id, name)

    def _order(self, path: Path) -> tuple[int, str]:
        name = self.pairs.classes.get(path, "")
        return (self.card.classes.index(name) if name in self.card.classes else -1), str(path)


def choose_masks(card: Card, pairs: Pairs) -> MaskChoice:
    """Decide how the masks of a set are read, from all of its mask files."""
    files = sorted({path for i, of in pairs.masks.items() if i not in pairs.entries for path in of})
    json = [path for path in files if path.suffix.lower() == ".json"]
    used = {name for path in json for name in names_in(path.read_bytes())}
    for coco in {coco.path: coco for coco, _ in pairs.entries.values()}.values():
        used.update(coco.titles.values())
    choice = MaskChoice(card, pairs, Names(card.encoding, card.classes, tuple(sorted(used))))
    if isinstance(card.encoding, Binary) and card.encoding.undecided and not json:
        _decide_white(card.encoding, files, choice)
    return choice


def _decide_white(encoding: Binary, files: list[Path], choice: MaskChoice) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        found = [facts for facts in pool.map(_facts, files) if facts]
    for facts, cut in zip(found, decide(found), strict=True):
        path = Path(facts.name)
        if isinstance(cut, str):
            choice.problems[path] = Problem("mask values", str(path), cut)
        else:
            choice.encodings[path] = encoding.cut_at(cut)
    soft = [Path(facts.name) for facts in found if facts.border > AMBIGUOUS * facts.pixels]
    if smooth := [path.name for path in soft if path in choice.encodings]:
        told = "masks with smooth grey borders, as resizing makes them, which are cut at half of white"
        choice.notes.append(f"{told} ({len(smooth)}): {shortened(smooth)}")


def _facts(path: Path) -> GreyFacts | None:
    """The facts about a mask file; None where it cannot be read, which the check of the files tells."""
    try:
        content = path.read_bytes()
        with few_at_a_time(content):
            return facts_of(str(path), open_mask(content))
    except Exception:  # told with its reason when the file is decoded
        return None
