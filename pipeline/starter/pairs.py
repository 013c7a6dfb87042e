"""Finds which files of a folder are images, which are their masks, and the patterns that name both."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath

from pipeline.datasets.file_listing import PICTURES, list_tree
from pipeline.datasets.problems import DatasetError, Problem

MASK_WORD = re.compile(r"mask|label|seg|annot|truth|(^|[^a-z])gt([^a-z]|$)|matte|target|json", re.IGNORECASE)
SUBSET_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
DEEPEST, MOST_FOLDERS = 3, 40  # folders that are tried as the place of images or of masks


@dataclass(frozen=True)
class Pairing:
    """Patterns that find images with masks.

    Attributes:
        images, masks: pattern of a card, or subset -> pattern.
        image_files, mask_files: what they match; images without a mask are left out.
        ids: names of the samples.
        classes: names of folders, where every class has its folder of masks.
        several: whether an image may have several masks.
    """

    images: str | dict[str, str]
    masks: str | dict[str, str]
    image_files: list[Path]
    mask_files: list[Path]
    ids: list[str]
    classes: tuple[str, ...] = ()
    several: bool = False


def find_pairing(folder: Path) -> Pairing:
    """The pairing that gives most of the pictures below a folder a partner.

    Raises:
        DatasetError: no image has a mask.
    """
    files = [p.relative_to(folder) for p in list_tree(folder).files if p.suffix.lower() in (*PICTURES, ".json")]
    roots = [Path(), *sorted({parent for p in files for parent in p.parents if parent != Path()})]
    roots = sorted((r for r in roots if len(r.parts) <= DEEPEST), key=lambda r: (len(r.parts), r))[:MOST_FOLDERS]
    best: tuple[tuple[int, ...], Pairing] | None = None
    for images, masks in product(roots, roots):
        for found in (_between(folder, files, images, masks), _in_class_folders(folder, files, images, masks)):
            if found and (best is None or _worth(found) > best[0]):
                best = _worth(found), found
    if best is None:
        text = (
            f"{len(files)} pictures, and none that is the mask of another by its name; expected e.g. images/a.png and "
        )
        raise DatasetError(
            str(folder), [Problem("missing mask", str(folder), text + "masks/a.png, or a.jpg and a_mask.png")]
        )
    return _by_subset(folder, files, best[1])


def _worth(pairing: Pairing) -> tuple[int, ...]:
    """More pairs first, then names that say mask, then class folders, then shorter patterns."""
    said = bool(MASK_WORD.search(str(pairing.masks))) - bool(MASK_WORD.search(str(pairing.images)))
    return len(pairing.image_files), said, bool(pairing.classes), -len(f"{pairing.images}{pairing.masks}")


def _below(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Name below ``root`` without extension -> files."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if path.is_relative_to(root):
            found[path.relative_to(root).with_suffix("").as_posix()].append(path)
    return found


def _between(folder: Path, files: list[Path], image_root: Path, mask_root: Path) -> Pairing | None:
    """Images below one folder, masks below another (or the same), named alike up to an ending."""
    if image_root != mask_root and (mask_root in image_root.parents or image_root in mask_root.parents):
        return None
    images, masks = _below(files, image_root), _below(files, mask_root)
    endings = _endings(images, masks, same=image_root == mask_root)
    if not endings:
        return None
    (more, less), _ = endings.most_common(1)[0]
    pairs = {i.removesuffix(less): (images[i], masks[i.removesuffix(less) + more])
             for i in images if i.endswith(less) and i.removesuffix(less) + more in masks}  # fmt: skip
    pairs = {i: both for i, both in pairs.items() if both[0] != both[1]}
    if not pairs:
        return None
    others = [
        p for m, of in masks.items() for i in pairs if more and m != i + more and m.startswith(i + more) for p in of
    ]
    star = "*" if others else ""
    return Pairing(
        _pattern(image_root, "{id}" + less, [f for a, _ in pairs.values() for f in a]),
        _pattern(mask_root, "{id}" + more + star, [f for _, b in pairs.values() for f in b]),
        [folder / f for a, _ in pairs.values() for f in a],
        [folder / f for _, b in pairs.values() for f in b] + [folder / f for f in others],
        list(pairs),
        several=bool(others),
    )


def _endings(images: dict[str, list[Path]], masks: dict[str, list[Path]], same: bool) -> Counter[tuple[str, str]]:
    """(what masks have more at the end, what images have more) -> how often; within one folder the masks have more."""
    counts: Counter[tuple[str, str]] = Counter()
    if not same:
        counts["", ""] = len(set(images) & set(masks)) * 2  # equal names are the better explanation
    for name in masks:
        ends = [name[k:] for k in range(1, len(name)) if name[:k] in images and name[k] in "_-. "]
        counts.update((end, "") for end in ends[-1:])
    for name in () if same else images:
        ends = [name[k:] for k in range(1, len(name)) if name[:k] in masks and name[k] in "_-. "]
        counts.update(("", end) for end in ends[-1:])
    return +counts


def _in_class_folders(folder: Path, files: list[Path], image_root: Path, mask_root: Path) -> Pairing | None:
    """A folder of masks for every class: ``masks/cat/a.png``, ``masks/dog/a.png``."""
    if image_root == mask_root or image_root == Path() or mask_root == Path() or mask_root in image_root.parents:
        return None
    images, masks = _below(files, image_root), _below(files, mask_root)
    parts = {name: PurePosixPath(name).parts for name in masks}
    if not masks or any(len(p) < 2 or "/".join(p[1:]) not in images for p in parts.values()):
        return None
    classes = sorted({p[0] for p in parts.values()})
    ids = sorted({"/".join(p[1:]) for p in parts.values()})
    shared = len(masks) > len(ids)  # one image in two folders: the folders are classes, not subsets
    if len(classes) < 2 or not (shared or MASK_WORD.search(str(mask_root))) or subsets_of(classes):
        return None
    chosen = [f for i in ids for f in images[i]]
    return Pairing(
        _pattern(image_root, "{id}", chosen),
        _pattern(mask_root, "{class}/{id}", [f for of in masks.values() for f in of]),
        [folder / f for f in chosen],
        [folder / f for of in masks.values() for f in of],
        ids,
        ("background", *classes),
    )


def _pattern(root: Path, name: str, files: list[Path]) -> str:
    suffixes = sorted({f.suffix.lower() for f in files})
    return (root / name).as_posix() + (suffixes[0] if len(suffixes) == 1 else ".*")


def _by_subset(folder: Path, files: list[Path], found: Pairing) -> Pairing:
    """The pairing with a pattern for each subset, where its folders name one: ``train/`` beside ``trainannot/``."""
    per: dict[str, Pairing] = {}
    texts = str(found.images).rpartition("/")[0], str(found.masks).rpartition("/")[0]
    word = next((w for w in _words() if w in texts[0] and w in texts[1]), None)
    for subset, words in SUBSET_WORDS.items() if word else ():
        for other in words:
            places = [Path(text.replace(word, other)) for text in texts]  # type: ignore[arg-type]
            if all((folder / p).is_dir() for p in places) and (more := _between(folder, files, *places)):
                per.setdefault(subset, more)
    if "train" not in per or "val" not in per:
        return found
    return Pairing(
        {s: str(p.images) for s, p in per.items()},
        {s: str(p.masks) for s, p in per.items()},
        [f for p in per.values() for f in p.image_files],
        [f for p in per.values() for f in p.mask_files],
        [f"{s}/{i}" for s, p in per.items() for i in p.ids],
        several=any(p.several for p in per.values()),
    )


def _words() -> list[str]:
    return sorted((w for words in SUBSET_WORDS.values() for w in words), key=len, reverse=True)


def subsets_of(ids: Iterable[str]) -> dict[str, str] | None:
    """Subset -> pattern of its ids, where every id begins with a subset's name; None elsewhere."""
    found: dict[str, str] = {}
    for i in ids:
        word = next((w for w in _words() if re.match(rf"{w}(?![a-z])", i, re.IGNORECASE)), None)
        if word is None:
            return None
        subset = next(s for s, words in SUBSET_WORDS.items() if word in words)
        if found.setdefault(subset, f"{i[: len(word)]}*") != f"{i[: len(word)]}*":
            return None
    return found if {"train", "val"} <= set(found) else None
