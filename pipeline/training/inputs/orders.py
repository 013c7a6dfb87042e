"""Records of a run's batches: those with labels, and those of which it reads images and features alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.cache.manifest.identity import digest
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.training.batch_order import Order
from pipeline.training.config import TrainConfig
from pipeline.training.inputs.labels import labelled_part
from sward.contracts import Method, Prestage


@dataclass(frozen=True)
class Orders:
    """Order of the training records.

    Attributes:
        main: of the records that make up ``batch_size``: those with labels, or all of a run that reads none.
        unlabelled: of the records that every step has besides; None: it has no others.
        hidden: digests of the samples whose labels the run does not read.
        sources: digest of the labelled images' ids, where they are drawn; a resumed run compares it.
    """

    main: Order
    unlabelled: Order | None = None
    hidden: frozenset[str] = frozenset()
    sources: dict[str, str] = field(default_factory=dict)


def training_orders(config: TrainConfig, store: Store, world: int = 1, rank: int = 0) -> Orders:
    """Which of the store's training records make up which batch.

    Raises:
        ValueError: there are too few labelled or unlabelled records, or fewer records than processes.
    """
    records = [r for r in store.records["train"] if config.views is None or r.view.number < config.views]
    ids = {r.id for r in records if r.labelled}
    kept = labelled_part(config.labels, ids, sequences_of(config, records))
    labelled, rest = ([r for r in records if (r.labelled and r.id in kept) is has] for has in (True, False))
    if not labelled and config.labels.fraction:
        raise ValueError(
            "the store has no training images with labels; to train the encoder by features alone, set labels: 0"
        )
    shares = (config.seed, config.per_epoch, world, rank)
    main = Order(tuple(labelled or rest), config.batch_size, *shares)
    require_a_record_each(main)
    drawn = {} if config.labels.fraction in (0, 1) else {"labels": digest(sorted(kept))}
    hidden = frozenset(r.digest for r in rest)
    if not config.unlabelled:
        return Orders(main, None, hidden, drawn)
    size = config.unlabelled_size
    others = Order(tuple(rest), size, *shares)
    if others.epoch_size < size:
        raise ValueError(
            f"unlabelled: {config.unlabelled} with batch_size {config.batch_size} takes {size} records without labels "
            f"a step, found {others.epoch_size}; lower `unlabelled`, lower `labels`, or name more images on the card"
        )
    return Orders(main, others, hidden, drawn)


def sequences_of(config: TrainConfig, records: list[Record]) -> Mapping[str, str]:
    """Id -> sequence of the training images, if the labelled part is drawn by sequence; else nothing.

    A cross-validation's store knows them; of other stores the card's table is read.

    Raises:
        ValueError: the card cannot be read, has no table, or its table lacks an image.
    """
    if config.labels.by == "image" or config.labels.fraction in (0, 1):
        return {}
    from pipeline.datasets import frame_sequences  # brings scipy, which most runs do without

    labelled = [r for r in records if r.labelled]
    table = {r.id: r.group for r in labelled if r.group is not None} or frame_sequences(config.caches[0].dataset)
    if absent := sorted({r.id for r in labelled} - table.keys()):
        raise ValueError(
            f"labels.by is sequence, and {len(absent)} training images have none in the card's table `sequences` "
            f"(first: {absent[0]}); complete the table, or draw by: image"
        )
    return table


def require_a_record_each(order: Order) -> None:
    """Raises ValueError if a batch of an epoch has fewer records than there are processes."""
    if (smallest := order.size(-1)) < order.world:
        raise ValueError(
            f"an epoch's smallest batch has {smallest} records, fewer than the {order.world} processes that split it: "
            "set devices lower, or batch_size higher"
        )


def require_something_to_learn(config: TrainConfig, method: Method) -> None:
    """Raises ValueError if a run without labels has a method that needs them for all it does."""
    if config.labels.fraction:
        return
    if config.method.balance is not None:
        raise ValueError(
            "labels is 0, and method.balance scales the method's terms by the gradient of the task loss, which is 0 "
            "then; leave `balance` out"
        )
    terms = method.weights.keys() - {"task", *method.label_terms}
    stages = [part for part in method.modules() if isinstance(part, Method) and isinstance(part.prestage(), Prestage)]
    if not terms or stages:
        raise ValueError(
            f"labels is 0, and the method {config.method.kind} learns from labels alone"
            f"{' in its pre-stage' if stages else ''}; choose one that compares features, e.g. sward or fitnet"
        )
