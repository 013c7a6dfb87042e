"""A grid of settings written out as rows of a comparison, each named by what differs; and equal runs made one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.experiments.settings import combinations
from pipeline.training.config import TrainConfig
from sward.methods import MethodConfig


def with_grid(values: dict[str, Any]) -> dict[str, Any]:
    """A comparison's values with its ``grid`` written out: methods, changes, optimizers and baselines for every row.

    A method gets a row for each combination of the settings that it has. Rows of the baseline are compared with its
    first one, other rows with the baseline's row of the same settings.

    Raises:
        ValueError: a setting has no values, or no method has it.
    """
    grid, methods = values.get("grid"), values.get("methods")
    if not grid or not isinstance(grid, dict) or not isinstance(methods, dict):
        return values
    fields = {label: _fields(method) for label, method in methods.items()}
    for name, choices in grid.items():
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"grid.{name} is {choices!r}; expected a list of values to try")
        if not any(_has(name, known) for known in fields.values()):
            raise ValueError(f"grid.{name}: none of the methods {list(methods)} has this setting")
    own = {label: {name: v for name, v in grid.items() if _has(name, fields[label])} for label in methods}
    rows = {label: list(combinations(settings)) for label, settings in own.items()}
    base = values.get("baseline") or plain_row(methods)
    if not isinstance(base, str) or base not in rows:
        raise ValueError(f"baseline is {base!r}; the methods are {list(methods)}")
    return values | _written_out(values, rows, base) | {"baseline": _label(base, rows[base][0]), "grid": {}}


def _written_out(values: dict[str, Any], rows: dict[str, list[dict[str, Any]]], base: str) -> dict[str, Any]:
    """methods, changes, optimizers and baselines, with an entry for every combination."""
    out: dict[str, Any] = {"methods": {}, "changes": {}, "optimizers": {}, "baselines": {}}
    changes, optimizers = values.get("changes") or {}, values.get("optimizers") or {}
    for label, row in ((label, row) for label, of in rows.items() for row in of):
        new = _label(label, row)
        out["methods"][new] = values["methods"][label]
        out["changes"][new] = {**changes.get(label, {}), **row}
        out["optimizers"] |= {new: optimizers[label]} if label in optimizers else {}
        out["baselines"][new] = _label(base, _counterpart(row, rows[base]) if label != base else rows[base][0])
    return out


def _counterpart(row: Mapping[str, Any], candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the baseline that has the same values of the settings that both have."""
    return next(c for c in candidates if all(row.get(name, value) == value for name, value in c.items()))


def plain_row(methods: Mapping[str, Any]) -> str | None:
    """Label of the first method without a teacher, else of the first."""
    return next((label for label, m in methods.items() if _kind(m) == "plain"), next(iter(methods), None))


def _kind(method: Any) -> Any:
    return method.get("kind") if isinstance(method, dict) else getattr(method, "kind", None)


def _fields(method: Any) -> set[str]:
    """Names of a method's settings; empty for one that is wrong, which is told when it is checked itself."""
    try:
        return set(type(TypeAdapter(MethodConfig).validate_python(method)).model_fields) - {"kind"}
    except ValueError:
        return set()


def _has(name: str, fields: set[str]) -> bool:
    first, _, rest = name.partition(".")
    return first != "method" or rest.partition(".")[0] in fields


def _label(label: str, row: Mapping[str, Any]) -> str:
    """``SWARD lr=0.001 beta=0.5``; a name that two settings share is written in full."""
    short = [name.rpartition(".")[2] for name in row]
    names = [s if short.count(s) == 1 else name for s, name in zip(short, row, strict=True)]
    return " ".join([label, *(f"{n}={_value(v)}" for n, v in zip(names, row.values(), strict=True))])


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def equal_runs_once(configs: Iterable[TrainConfig], known: dict[str, TrainConfig]) -> tuple[TrainConfig, ...]:
    """The runs, where one that equals an earlier run in all that counts is that run; ``known``: identity -> run."""
    return tuple(known.setdefault(f"{config.runs} {config.identity()}", config) for config in configs)


def reused_text(rows: Mapping[str, tuple[TrainConfig, ...]], before: set[Path]) -> list[str]:
    """A line that says which rows had runs that were finished before; none without any.

    Args:
        rows: label -> runs.
        before: folders of the runs that were finished.
    """
    counts = {label: sum(run.folder in before for run in runs) for label, runs in rows.items()}
    said = [f"{label} ({n} of {len(rows[label])} runs)" for label, n in counts.items() if n]
    return [f"reused: {', '.join(said)}"] if said else []
