"""Joins stores of the same views, each of another teacher, into one that is read like a store.

Images, labels and the order of records are those of the first store. Levels have their teacher's name in front
(``tiny:s16``). Records are matched by sample and view number, so the stores may differ in shard size, codec and
location.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, cast

from torch import Tensor

from pipeline.cache.errors import CacheMismatch
from pipeline.cache.format.codecs import ArraySpecs
from pipeline.cache.manifest.identity import JOINING, differing_views, digest
from pipeline.cache.manifest.records import Record, record_to_json
from pipeline.cache.storage.first_reads import FirstReads
from pipeline.cache.store import Store
from pipeline.types import Arrays
from sward.levels import own_name, teacher_of

PIXELS = ("image", "label")


class JoinedStore(Store):
    """Several complete stores of the same views, opened for reading; threads may share it.

    Args:
        stores: name of the teacher -> its store, opened; images and labels are read from the first.

    Attributes:
        stores: as given.
        channels: ``<teacher>:<level>`` -> channels, teacher by teacher.

    Raises:
        CacheMismatch: two stores have other views; names the fields, and the first view that differs.
    """

    def __init__(self, stores: Mapping[str, Store]) -> None:
        first, *others = stores.values()
        for other in others:
            require_same_views(first, other)
        vars(self).update(vars(first))  # plans, units, records and classes are the first's
        self.stores = dict(stores)
        self.channels = {f"{name}:{level}": c for name, s in stores.items() for level, c in s.channels.items()}
        self.identity = common_identity(stores)
        self.content_id = digest([store.content_id for store in stores.values()])
        self.appended, self._specs, self.first_reads = None, {}, JoinedFirstReads(self)
        self._own = {name: by_key(store) for name, store in stores.items()}

    @property
    def location(self) -> str:
        return " and ".join(store.location for store in self.stores.values())

    def of_fold(self, fold: int) -> "JoinedStore":
        same = cast(JoinedStore, super().of_fold(fold))
        same.stores = {name: store.of_fold(fold) for name, store in self.stores.items()}
        return same

    def specs(self, subset: str) -> ArraySpecs:
        if subset not in self._specs:
            pixels = next(iter(self.stores.values())).specs(subset)
            self._specs[subset] = {name: pixels[name] for name in PIXELS} | {
                f"{teacher}:{name}": store.specs(subset)[name]
                for teacher, store in self.stores.items()
                for level in store.channels
                for name in store.level_arrays(level)
            }
        return self._specs[subset]

    def level_arrays(self, level: str) -> list[str]:
        if level not in self.channels:
            raise KeyError(f"the stores {self.location} have no level {level}; they have {', '.join(self.channels)}")
        teacher, own = teacher_of(level), own_name(level)
        return [f"{teacher}:{name}" for name in self.stores[teacher].level_arrays(own)]

    def decode(self, name: str, parts: dict[str, Tensor], subset: str) -> Tensor:
        own = {own_name(array): parts[array] for array in self.level_arrays(name)}
        return self.stores[teacher_of(name)].decode(own_name(name), own, subset)

    def read(self, record: Record, out: Arrays) -> None:
        for store, own, arrays in self.by_store(record, out):
            store.read(own, arrays)

    def prefetch(self, record: Record, like: Arrays) -> None:
        for store, own, arrays in self.by_store(record, like):
            store.prefetch(own, arrays)

    def kept_open(self) -> AbstractContextManager[None]:
        held: Any = ExitStack()
        for store in self.stores.values():
            held.enter_context(store.kept_open())
        return held

    def statistics(self, first: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            f"{teacher}:{level}": moments
            for teacher, store in self.stores.items()
            for level, moments in store.statistics(first).items()
        }

    def by_store(self, record: Record, arrays: Arrays) -> Iterator[tuple[Store, Record, Arrays]]:
        """Yields each store that holds some of the arrays, with its own record and arrays by their own names."""
        first, found = next(iter(self.stores)), dict[str, Arrays]()
        for name, array in arrays.items():  # images and labels are read from the first store
            found.setdefault(teacher_of(name) or first, {})[own_name(name)] = array
        for teacher, own in found.items():
            yield self.stores[teacher], self._own[teacher][record.subset, record.name], own


class JoinedFirstReads(FirstReads):
    """Compares each array with the receipts of the store that it was read from."""

    def __init__(self, store: JoinedStore) -> None:
        self.store, self.location = store, store.location

    def differing(self, record: Record, arrays: Arrays) -> list[str]:
        parts = self.store.by_store(record, arrays)
        return [
            f"{name} of {store.location}"
            for store, own, part in parts
            for name in store.first_reads.differing(own, part)
        ]

    def require_full_label(self, record: Record, png: bytes) -> None:
        next(iter(self.store.stores.values())).first_reads.require_full_label(record, png)


def parts_of(store: Store) -> list[Store]:
    """The stores that a joined one is read from; of any other, itself."""
    return list(store.stores.values()) if isinstance(store, JoinedStore) else [store]


def by_key(store: Store) -> dict[tuple[str, str], Record]:
    """Records of a store, of all folds, by subset and name."""
    return {(r.subset, r.name): r for unit in store.units for r in unit.records}


def common_identity(stores: Mapping[str, Store]) -> dict[str, Any]:
    """Identity fields of the first store, without its teacher's; name and digest of all teachers as one text."""
    first = next(iter(stores.values())).identity
    fields = ("teacher.architecture", "teacher.digest")
    together = {field: ", ".join(str(store.identity[field]) for store in stores.values()) for field in fields}
    return {k: v for k, v in first.items() if not k.startswith("teacher.")} | together


def differing_view(first: Store, other: Store) -> list[str]:
    """The fields of the first view that two stores do not share, in the order of the first; none if all are equal."""
    mine, theirs = by_key(first), by_key(other)
    for key, record in (mine | theirs).items():
        if key not in mine or key not in theirs:
            return [f"{record.title}: in {(first if key in mine else other).location} alone"]
        if lines := differences_of(flat(mine[key]), flat(theirs[key])):
            return [f"{record.title}: {line}" for line in lines]
    return []


def differences_of(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterable[str]:
    """One text for every entry in which two records differ."""
    entries = dict.fromkeys((*first, *other))
    return [f"{k} {first.get(k)} and {other.get(k)}" for k in entries if first.get(k) != other.get(k)]


def flat(record: Record) -> dict[str, Any]:
    """Entries of a record, those of its view named ``view.…``, without its place in the store."""
    entries = record_to_json(record)
    view = {f"view.{name}": value for name, value in entries.pop("view").items()}
    return {name: value for name, value in entries.items() if name != "row"} | view


def require_same_views(first: Store, other: Store) -> None:
    """Raises CacheMismatch with every field and the first view in which the stores differ, and what to do."""
    if lines := [*differing_views(first.identity, other.identity), *differing_view(first, other)]:
        raise CacheMismatch(
            f"the stores {first.location} and {other.location} cannot be joined, their views differ:\n  "
            + "\n  ".join(lines)
            + f"\n{JOINING}"
        )
