"""Exceptions of stage 1 and of the store.

ValueError
  CacheMismatch      the store is not the one the configuration describes
  StoreIncomplete    planned shards have no receipt yet
  StoreDamaged       bytes are missing, changed or cannot be decoded
  StorageOverflow    a feature exceeds the range of the storage type
RuntimeError
  ExtractionError    a feature is NaN, infinite, or overflows
OSError
  NotWritable        a disk that is full or read-only
  RemoteError        object storage that cannot be reached or refuses
  ClusterLost        a Dask scheduler or all its workers are gone
"""


class CacheMismatch(ValueError):
    """A store isn't the one the configuration describes."""


class StoreIncomplete(ValueError):
    """Planned shards have no receipt yet."""


class StoreDamaged(ValueError):
    """Bytes of a store are missing or changed."""


class StorageOverflow(ValueError):
    """A value does not fit the storage type."""


class ExtractionError(RuntimeError):
    """A record cannot be stored; names the sample."""


class NotWritable(OSError):
    """The store's disk is full, or may not be written."""


class RemoteError(OSError):
    """A store at a URL cannot be reached, read or written; says why and what to do."""


class ClusterLost(OSError):
    """No scheduler, or no workers."""
