"""Opens the stores of a run, after comparing each with the configuration field by field, and joins them."""

from collections.abc import Sequence

from pipeline.cache.config import CacheConfig
from pipeline.cache.joined import JoinedStore
from pipeline.cache.manifest.identity import differences, identity_from_config, require_same
from pipeline.cache.store import Store
from pipeline.paths import read_path
from pipeline.training.config import TrainConfig
from pipeline.training.inputs.stores import JoinedConfig

REMEDY = """Set `cache.store` to the right store, or rebuild it with `sward extract`.
If the store has grown, set `cache.views.count` to its new value; `views: N` trains on the first N views only."""
FOLD_REMEDY = "Name the fold in the training config (`fold: 0`), or leave it out where the split has no folds."


def joined(cache: CacheConfig | JoinedConfig, stores: Sequence[Store]) -> Store:
    """The store of a run out of its opened stores.

    Raises:
        CacheMismatch: the stores have other views.
    """
    return JoinedStore(dict(zip(cache.names, stores, strict=True))) if isinstance(cache, JoinedConfig) else stores[0]


def matching_store(config: TrainConfig, cache: CacheConfig) -> Store:
    """Opens the store of one cache configuration of a run. Raises CacheMismatch if it is not what that describes."""
    store = Store(read_path(cache.store), cache_bytes=config.cache_bytes)
    require_same(store.path, fold_mistakes(config.fold, store.folds), FOLD_REMEDY)
    lines = differences(identity_from_config(cache), store.identity) + unpinned_teacher(cache, store)
    require_same(store.path, lines, REMEDY)
    return store


def fold_mistakes(fold: int | None, count: int) -> list[str]:
    """What is wrong with the run's fold in a store of ``count`` folds (0: none)."""
    if fold is None:
        return (
            [f"fold: expected one of 0 … {count - 1} (the store's split has {count} folds), found none"]
            if count
            else []
        )
    return [] if fold < count else [f"fold: expected {f'0 … {count - 1}' if count else 'none'}, found {fold}"]


def unpinned_teacher(cache: CacheConfig, store: Store) -> list[str]:
    """Compares the paths of the teacher's weights if the config has no digest: stage 2 opens no weights to hash."""
    expected, found = cache.teacher, store.plans[-1]["config"]["teacher"]["weights"]
    if expected.digest or expected.weights == found:
        return []
    pin = f"or set teacher.digest; the store's is {store.identity['teacher.digest']}"
    return [f"teacher.weights: expected {expected.weights}, found {found} ({pin})"]
