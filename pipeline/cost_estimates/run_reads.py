"""What a run reads for every record: arrays of the planned store, and of the stores that it is joined with.

Sizes and shapes follow from the configurations, so no store needs to be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.cache.config import CacheConfig
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS, ArraySpecs, array_bytes
from pipeline.cache.manifest.appended import APPENDED
from pipeline.cache.manifest.identity import identity_from_config
from pipeline.cost_estimates.calibration import Pieces, measure_decoding
from pipeline.cost_estimates.student_speed import ReadDemand
from pipeline.training.config import TrainConfig
from pipeline.training.inputs.stores import JoinedConfig
from pipeline.weights import load_teacher
from sward.contracts import Channels
from sward.levels import grid_of, own_name, teacher_of

PIXELS = ("image", "label")  # read from the first store


@dataclass(frozen=True)
class RunStores:
    """The stores of a run.

    Attributes:
        planned: name of the planned store's teacher in front of its levels; empty in a run of one store.
        caches: teacher's name -> configuration of its store, in the run's order; the planned one as it is planned.
        channels: level, with its teacher's name -> channels.
    """

    planned: str
    caches: Mapping[str, CacheConfig]
    channels: Channels

    @property
    def others(self) -> dict[str, CacheConfig]:
        """The stores that the planned one is joined with."""
        return {name: cache for name, cache in self.caches.items() if name != self.planned}


def stores_of(config: CacheConfig, train: TrainConfig | None, channels: Channels) -> RunStores:
    """The stores that ``train`` reads, of which ``config`` describes the planned one.

    Args:
        config: the planned store.
        train: the run; None reads the planned store alone.
        channels: levels of the planned store -> channels.

    Raises:
        ValueError: the run joins stores, and the planned one is not among them.
        WeightsError, TrunkMismatch: another store's teacher cannot be loaded, so its channels are not known.
    """
    if train is None or not isinstance(train.cache, JoinedConfig):
        return RunStores("", {"": config}, channels)
    planned = name_of(config, train.cache)
    caches = dict(zip(train.cache.names, train.cache.root, strict=True)) | {planned: config}
    joined: Channels = {}
    for name, cache in caches.items():
        own = channels if name == planned else load_teacher(cache.teacher).channels
        joined |= {f"{name}:{level}": c for level, c in own.items()}
    return RunStores(planned, caches, joined)


def name_of(config: CacheConfig, joined: JoinedConfig) -> str:
    """Name of the planned store's teacher among those of a run; ValueError if it is not one of its stores."""
    identity = identity_from_config(config)
    for name, cache in zip(joined.names, joined.root, strict=True):
        if cache.store == config.store or identity_from_config(cache) == identity:
            return name
    raise ValueError(
        f"--train joins the stores {[cache.store for cache in joined.root]}, found none of them planned: "
        f"{config.store}; plan one of these, or name a run that reads the planned store"
    )


def pieces_of(stores: RunStores, name: str, codec: str, need: ReadDemand) -> Pieces:
    """Bytes of each array of a record that the run reads from one of its stores, were it stored as ``codec``."""
    cache = stores.caches[name]
    size, first = cache.teachers_size_of("train"), name == next(iter(stores.caches))
    specs: ArraySpecs = array_specs(CODECS[codec], tensors_of(need, name), cache.size, size)
    for tensor, c in need.head.items():
        specs |= APPENDED.arrays(tensor, (c, size[0] // 4, size[1] // 4))
    return [array_bytes(*spec) for array, spec in specs.items() if first or array not in PIXELS]


def decoding(stores: RunStores, name: str, codec: str, need: ReadDemand) -> float:
    """Seconds per record to decode what the run reads from one of its stores, were it stored as ``codec``."""
    size = stores.caches[name].teachers_size_of("train")
    shapes = {level: (c, *grid_of(level, size)) for level, c in tensors_of(need, name).items()}
    return measure_decoding(codec, shapes, need.device)


def tensors_of(need: ReadDemand, name: str) -> Channels:
    """Levels that the run reads from one of its stores, by their own names -> channels."""
    return {own_name(level): c for level, c in need.tensors.items() if teacher_of(level) == name}
