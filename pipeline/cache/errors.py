"""Exceptions of the feature cache: of extraction (stage 1), the store and its tools.

ValueError
  CacheMismatch      the store is not the one the configuration describes
  StoreIncomplete    planned shards have no receipt yet
  StoreDamaged       bytes are missing, changed or cannot be decoded
  StorageOverflow    a feature exceeds the range of the storage type
RuntimeError
  ExtractionError    a feature is NaN, infinite, or overflows; or Dask workers do not agree
    ExtractionEnded  the extraction beside a training ended before it had written what the training needs
OSError
  NotWritable        the disk is full or read-only
  RemoteError        object storage cannot be reached, or refuses
  ClusterLost        the Dask scheduler or all its workers are gone
"""

KEPT = "what is finished is kept: the same command continues"  # end of messages after which a restart continues


class CacheMismatch(ValueError):
    """The store is not the one the configuration describes, or a target folder holds something else."""


class StoreIncomplete(ValueError):
    """Some planned shards of the store have no receipt yet."""


class StoreDamaged(ValueError):
    """Bytes of the store are missing, changed, or cannot be decoded."""


class StorageOverflow(ValueError):
    """A feature value exceeds the range of the storage type."""


class ExtractionError(RuntimeError):
    """A record or unit cannot be computed or stored; the message names the sample or unit."""


class ExtractionEnded(ExtractionError):
    """The extraction beside a training ended, or stands still, before it has written what the training needs."""


class NotWritable(OSError):
    """The store's disk is full or read-only, or permission is denied."""


class RemoteError(OSError):
    """A store at a URL cannot be reached, read or written; the message gives cause and remedy."""


class ClusterLost(OSError):
    """The Dask scheduler does not answer, or no worker is left."""
