"""Values that a run's identity is the digest of, without settings that change nothing.

So runs from before there were such settings keep their identity.
"""

from typing import TYPE_CHECKING, Any

from pipeline.training.inputs.stores import levels_of
from sward.task import TaskConfig

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig

NEUTRAL: dict[str, Any] = {  # settings that came later: at these values a run is what it was without them
    "task": TaskConfig().model_dump(mode="json"),
    "fold": None,
    "labels": {"fraction": 1.0},
    "unlabelled": 0,
    "init": None,
    "epochs": None,
    "accumulate": 1,
    "ema": 0,
    "patience": 0,
    "deterministic": False,
    "order": {"kind": "shuffled"},
}
IN_EVERY_RESOLVED_FILE = {"teacher", "per_epoch", "log_every", "prefetch", "precision"}  # nobody writes all of them
FORMER_DEFAULTS: dict[str, Any] = {"channels_last": False}  # of settings whose default has changed since


def with_former_defaults(values: Any) -> Any:
    """A configuration as written; in a run's resolved file, a setting that it does not name is what it was then.

    Such a file names every setting of its time, so one without a setting is of a run from before there was it.
    """
    resolved = isinstance(values, dict) and values.keys() >= IN_EVERY_RESOLVED_FILE
    return FORMER_DEFAULTS | values if resolved else values


def identity_values(config: "TrainConfig") -> dict[str, Any]:
    """All values of a run that can change its result."""
    # where files lie, how fast they are read, which processors compute: the order of records and draws stays
    free = {"name", "runs", "workers", "prefetch", "cache_bytes", "device", "devices", "nodes"}
    # how often state and losses are written, and to whom: writing changes no weight
    free |= {"checkpoint_every", "log_every", "loggers", "pictures"}
    # options without effect at this setting; so runs from before an option existed keep their identity
    free |= {"head"} if not config.method.uses_head else set()
    free |= {"teacher"} if config.teacher == "cached" else set()
    free |= {"channels_last"} | (set() if config.compile else {"compile"})
    values = without_neutral(config.model_dump(mode="json", exclude=free))
    values |= {"eval_every": config.eval_every if config.epochs else config.validates_every}
    values["method"] = config.method.for_levels(levels_of(config.cache)).model_dump(mode="json")
    for cache in values["cache"] if isinstance(values["cache"], list) else [values["cache"]]:
        for key in ("store", "shard_records", "compression", "batch_size", "workers", "device", "runner"):
            cache.pop(key)
        cache["teacher"].pop("implementation", None)
    values |= {"init": config.init.digest} if config.init else {}  # what the weights are, wherever they lie
    # channels-last order counts also where bf16 implies it: sums are rounded differently
    return values | ({"channels_last": True} if config.puts_channels_last else {})


def without_neutral(values: dict[str, Any]) -> dict[str, Any]:
    """A run's dumped settings as its identity has them: without what changes nothing, so older runs keep theirs."""
    kept = {k: v for k, v in values.items() if k not in NEUTRAL or v != NEUTRAL[k]}
    if kept.get("epochs") is not None:
        kept.pop("steps")  # it follows from epochs and the store
    if isinstance(head := kept.get("head"), dict):
        dropped = ({"epochs"} if head["steps"] else {"steps"}) | ({"task"} if head["task"] is None else set())
        kept["head"] = {k: v for k, v in head.items() if k not in dropped}
        kept["head"]["optimizer"] = head["optimizer"] and without_momentum(head["optimizer"])
    return kept | {"optimizer": without_momentum(values["optimizer"])}


def without_momentum(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's settings without those that AdamW, the only one at first, does not have."""
    later = {"kind", "momentum"} if optimizer["kind"] == "adamw" else set()
    return {k: v for k, v in optimizer.items() if k not in later}
