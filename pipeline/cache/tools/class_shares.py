"""Shares of the classes in a store's labels, per subset: of whole images (view 0), and of a part of them where many."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from sward.contracts import IGNORE

MOST = 200  # images looked at in each subset: labels only, a second on a slow disk


@dataclass(frozen=True)
class ClassShares:
    """What the labels of a subset hold.

    Attributes:
        classes: class -> share of the labelled pixels.
        ignored: share of all pixels.
        images: images looked at.
        of: images in the subset.
    """

    classes: dict[str, float]
    ignored: float
    images: int
    of: int

    def line(self, subset: str) -> str:
        """The shares for people; classes without a pixel are named."""
        held = ", ".join(f"{name} {100 * share:.3g} %" for name, share in self.classes.items() if share)
        lacking = [name for name, share in self.classes.items() if not share]
        part = f" (of {self.images} of {self.of} images)" if self.images < self.of else ""
        none = f"; no pixel of {', '.join(lacking)}" if lacking else ""
        return f"{subset + ' classes':14} {held or 'nothing labelled'}{none}; ignored {100 * self.ignored:.3g} %{part}"


def class_shares(store: Store) -> dict[str, ClassShares]:
    """Subset -> shares, of the subsets that have readable records; a subset with damaged labels is left out."""
    found = {}
    for subset, records in store.records.items():
        whole = [record for record in records if record.view.number == 0]
        chosen = [whole[k] for k in np.linspace(0, len(whole) - 1, min(MOST, len(whole))).astype(int)]
        try:
            if chosen:
                found[subset] = _shares(store, chosen, len(whole))
        except StoreDamaged:
            continue  # `sward verify` names the file
    return found


def _shares(store: Store, records: list[Record], of: int) -> ClassShares:
    counts = np.zeros(256, np.int64)
    for record in records:
        counts += np.bincount(store.arrays(record, ("label",))["label"].ravel(), minlength=256)
    labelled, ignored = counts[: len(store.classes)], int(counts[IGNORE])
    total = max(int(labelled.sum()), 1)
    shares = {name: int(n) / total for name, n in zip(store.classes, labelled, strict=True)}
    return ClassShares(shares, ignored / max(int(counts.sum()), 1), len(records), of)


def as_json(found: dict[str, ClassShares]) -> dict[str, Any]:
    """The shares for programs."""
    return {subset: asdict(shares) for subset, shares in found.items()}
