"""Single settings of a run changed by their dotted names."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import ConfigError, validate
from pipeline.training.config import TrainConfig


def combinations(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of a grid's values, name -> value; the last name varies fastest."""
    return (dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values()))


def with_own_head(config: TrainConfig) -> TrainConfig:
    """The run with its head's settings spelled out, so that changing the student's leaves the head as it is."""
    if config.head is None:
        return config
    head, own = config.head, ("optimizer", "task", "batch_size")
    stated = {name: getattr(config, name) if (value := getattr(head, name)) is None else value for name in own}
    return config.model_copy(update={"head": head.model_copy(update=stated)})


def with_settings(config: TrainConfig, settings: Mapping[str, Any], row: str) -> TrainConfig:
    """The run with other values, checked as if they stood in its file.

    Args:
        config: the run.
        settings: dotted name -> value, e.g. ``{"optimizer.lr": 1e-3}``.
        row: label of the row, for messages.

    Raises:
        ConfigError: a name leads through something that is no group of settings, or a value is wrong.
    """
    values = with_own_head(config).model_dump(mode="json")
    for name, value in settings.items():
        *parents, last = name.split(".")
        group: Any = values
        for parent in parents:
            group = group.get(parent)
            if not isinstance(group, dict):
                raise ConfigError(f"row {row}: {name} is no setting, for {parent} is no group of settings")
        group[last] = value
    return validate(TrainConfig, values, f"row {row} with {dict(settings)}")
