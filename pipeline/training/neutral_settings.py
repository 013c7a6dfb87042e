"""Settings that a run's identity leaves out, so that runs from before there were such settings keep theirs."""

from typing import Any

from sward.task import TaskConfig

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
